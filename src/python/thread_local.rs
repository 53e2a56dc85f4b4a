//! Has the C library make the extension's thread-local data together with each thread.
//!
//! For a library that is loaded at run time, glibc makes it at a thread's first use, and ends the process if there is
//! no memory. But a TLS descriptor, as below, has it try, when it loads the library, to place that data in what every
//! thread has from its start; if there is no room left there, everything stays as it was. The code never runs. On
//! 64-bit ARM the compiler uses TLS descriptors anyway. <https://sourceware.org/bugzilla/show_bug.cgi?id=25051>

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(unsafe_code, reason = "Rust's own relocations of thread-local data are of another kind.")]

std::arch::global_asm!(
    ".pushsection .tbss.runtime_metrics,\"awT\",@nobits",
    "runtime_metrics_thread_local:",
    ".zero 1",
    ".popsection",
    // R: the linker keeps what nothing refers to.
    ".pushsection .text.runtime_metrics,\"axR\",@progbits",
    "leaq runtime_metrics_thread_local@tlsdesc(%rip), %rax",
    "call *runtime_metrics_thread_local@tlscall(%rax)",
    "ret",
    ".popsection",
    options(att_syntax)
);
