//! Our hooks for exceptions that nothing handles: each counts, then calls the hook that was there before it.
//!
//! They are native functions, which leave no frame in a traceback. They keep no reference to the exception, and hand on
//! the arguments, the result and what is raised as they are.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi::{
    METH_KEYWORDS, METH_VARARGS, PyCFunction_New, PyMethodDef, PyMethodDefPointer, PyObject, PyObject_Call,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::replaceable::Replaceable;
use crate::snapshot::Uncaught;
use crate::sources::uncaught::UncaughtCounters;

/// What a hook of ours is a method of.
#[pyclass(frozen, module = "runtime_metrics._core")]
struct ExceptionHook {
    place: Uncaught,
    counters: Arc<UncaughtCounters>,
    /// The hook that was there before.
    previous: Py<PyAny>,
    /// Where the program's hook still calls ours after it was removed, ours only hands on.
    is_counting: AtomicBool,
}

#[pymethods]
impl ExceptionHook {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.previous)
    }
}

impl ExceptionHook {
    /// Counts an exception that the hook is called with.
    fn observe(&self, arguments: &Bound<'_, PyTuple>) {
        if self.is_counting.load(SeqCst) && !self.is_of_an_exit(arguments) {
            self.counters.count(self.place);
        }
    }

    fn is_of_an_exit(&self, arguments: &Bound<'_, PyTuple>) -> bool {
        let first = arguments.get_item(0);
        let kind = match self.place {
            Uncaught::Main => first,
            Uncaught::Thread | Uncaught::Unraisable => {
                first.and_then(|details| details.getattr(exc_type(arguments.py())))
            }
        };
        kind.is_ok_and(|kind| {
            kind.cast::<PyType>().is_ok_and(|kind| {
                kind.is_subclass_of::<PySystemExit>().unwrap_or(false)
                    || kind.is_subclass_of::<PyKeyboardInterrupt>().unwrap_or(false)
            })
        })
    }
}

/// The attribute that has the exception's class. It is interned before a hook is installed.
fn exc_type(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "exc_type")
}

/// The function that Python calls.
struct Function(PyMethodDef);

#[expect(unsafe_code, reason = "It has a pointer in it.")]
// SAFETY: nothing changes it.
unsafe impl Sync for Function {}

impl Function {
    const fn named(name: &'static std::ffi::CStr) -> Self {
        Self(PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: PyMethodDefPointer { PyCFunctionWithKeywords: observe_and_call_previous },
            ml_flags: METH_VARARGS | METH_KEYWORDS,
            ml_doc: ptr::null(),
        })
    }
}

static EXCEPTHOOK: Function = Function::named(c"excepthook");
static UNRAISABLEHOOK: Function = Function::named(c"unraisablehook");

#[expect(unsafe_code, reason = "CPython calls it.")]
unsafe extern "C" fn observe_and_call_previous(
    hook: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython calls attached, with the object that the method was made of, a tuple, and a dict or null, all of
    // which live until it returns: but for the hook, which the call may remove.
    unsafe {
        let py = Python::assume_attached();
        let hook = Borrowed::from_ptr(py, hook);
        let hook = hook.cast_unchecked::<ExceptionHook>().get();
        let previous = hook.previous.clone_ref(py);
        hook.observe(&Borrowed::from_ptr(py, arguments).cast_unchecked::<PyTuple>());
        PyObject_Call(previous.as_ptr(), arguments, keywords)
    }
}

#[expect(unsafe_code, reason = "PyO3 makes no method without its wrapper.")]
fn bound_method<'py>(hook: &Bound<'py, ExceptionHook>) -> PyResult<Bound<'py, PyAny>> {
    let function = match hook.get().place {
        Uncaught::Main | Uncaught::Thread => &EXCEPTHOOK,
        Uncaught::Unraisable => &UNRAISABLEHOOK,
    };
    // SAFETY: the definition is static, and CPython only reads it; the method keeps its object alive.
    unsafe {
        let method = PyCFunction_New((&raw const function.0).cast_mut(), hook.as_ptr());
        Bound::from_owned_ptr_or_err(hook.py(), method)
    }
}

/// Where such exceptions go: a module and its attribute.
fn place_of(py: Python<'_>, place: Uncaught) -> (&Bound<'_, PyString>, &Bound<'_, PyString>) {
    match place {
        Uncaught::Main => (intern!(py, "sys"), intern!(py, "excepthook")),
        Uncaught::Thread => (intern!(py, "threading"), intern!(py, "excepthook")),
        Uncaught::Unraisable => (intern!(py, "sys"), intern!(py, "unraisablehook")),
    }
}

/// The hooks of a collector, and where they are installed.
pub struct ExceptionHooks {
    counters: Arc<UncaughtCounters>,
    /// `sys.modules`.
    modules: Py<PyDict>,
    installed: [Replaceable<Installed>; Uncaught::ALL.len()],
    /// They were removed for good and are not installed again.
    are_removed: AtomicBool,
}

struct Installed {
    hook: Py<ExceptionHook>,
    function: Py<PyAny>,
}

impl ExceptionHooks {
    /// Hooks that are not installed yet, in modules of these.
    pub fn new(py: Python<'_>, modules: Py<PyDict>) -> Self {
        exc_type(py);
        Self {
            counters: Arc::default(),
            modules,
            installed: Default::default(),
            are_removed: AtomicBool::new(false),
        }
    }

    /// What they count.
    pub fn counters(&self) -> Arc<UncaughtCounters> {
        Arc::clone(&self.counters)
    }

    /// Installs what is wanted and not installed, unless they were removed for good; otherwise removes what is. To be
    /// called again and again, as a program may import `threading` late.
    pub fn update(&self, py: Python<'_>, are_wanted: bool) {
        for place in Uncaught::ALL {
            let is_installed = self.installed[place as usize].load().is_some();
            // Where that fails, as there is no memory, nothing is counted.
            if are_wanted && !is_installed {
                drop(self.install(py, place));
            } else if is_installed && !are_wanted {
                self.counters.watch(place, false);
                drop(self.uninstall(py, place));
            }
        }
    }

    /// Removes them for good. What they have counted stays.
    pub fn remove(&self, py: Python<'_>) {
        self.are_removed.store(true, SeqCst);
        for place in Uncaught::ALL {
            drop(self.uninstall(py, place));
        }
    }

    fn install(&self, py: Python<'_>, place: Uncaught) -> PyResult<()> {
        let (module, attribute) = place_of(py, place);
        let Some(module) = self.modules.bind(py).get_item(module)? else {
            // No thread of threading ends without it.
            self.counters.watch(place, true);
            return Ok(());
        };
        with_critical_section(&module, || {
            let installed = &self.installed[place as usize];
            if self.are_removed.load(SeqCst) || installed.load().is_some() {
                return Ok(());
            }
            // Its import may still be under way; or the program wants the interpreter's own, which None stands for.
            let Some(previous) = module.getattr_opt(attribute)?.filter(|hook| !hook.is_none()) else {
                self.counters.watch(place, false);
                return Ok(());
            };
            let hook = ExceptionHook {
                place,
                counters: Arc::clone(&self.counters),
                previous: previous.unbind(),
                is_counting: AtomicBool::new(true),
            };
            let hook = Bound::new(py, hook)?;
            let function = bound_method(&hook)?;
            module.setattr(attribute, &function)?;
            let (hook, function) = (hook.unbind(), function.unbind());
            installed.store(Some(Arc::new(Installed { hook, function })));
            self.counters.watch(place, true);
            Ok(())
        })
    }

    /// If the program has set another hook meanwhile, that may call ours, which from now on only hands on.
    fn uninstall(&self, py: Python<'_>, place: Uncaught) -> PyResult<()> {
        let Some(installed) = self.installed[place as usize].swap(None) else { return Ok(()) };
        let hook = installed.hook.get();
        hook.is_counting.store(false, SeqCst);
        let (module, attribute) = place_of(py, place);
        let Some(module) = self.modules.bind(py).get_item(module)? else { return Ok(()) };
        with_critical_section(&module, || {
            if module.getattr_opt(attribute)?.is_some_and(|current| current.is(&installed.function)) {
                module.setattr(attribute, &hook.previous)?;
            }
            Ok(())
        })
    }
}
