// Loaded before the C library: a page that is to be wiped in forked children is copied, as under qemu-user 7.2, which
// accepts the request and does nothing.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/mman.h>

typedef int advise(void *, size_t, int);

int madvise(void *address, size_t length, int advice) {
    if (advice == MADV_WIPEONFORK)
        return 0;
    return ((advise *)dlsym(RTLD_NEXT, "madvise"))(address, length, advice);
}
