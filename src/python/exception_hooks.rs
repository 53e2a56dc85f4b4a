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
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::native_function::owner_of;
use super::program::hexversion;
use super::turn::Turn;
use crate::python::interned::intern;
use crate::replaceable::Replaceable;
use crate::snapshot::Uncaught;
use crate::sources::uncaught::UncaughtCounters;

/// What a hook of ours is a method of.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct ExceptionHook {
    place: Uncaught,
    counters: Arc<UncaughtCounters>,
    /// The hook that was there before; None in a loop without a handler.
    pub previous: Py<PyAny>,
    /// Where the program's hook still calls ours after it was removed, ours only hands on.
    pub is_counting: Arc<AtomicBool>,
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
        if !self.is_counting.load(SeqCst) {
            return;
        }
        let first = arguments.get_item(0);
        let is_counted = match self.place {
            Uncaught::Main => !first.is_ok_and(|kind| is_of_an_exit(&kind)),
            Uncaught::Thread | Uncaught::Unraisable => {
                let kind = first.and_then(|details| details.getattr(names(arguments.py()).exc_type));
                !kind.is_ok_and(|kind| is_of_an_exit(&kind))
            }
            Uncaught::NeverRetrieved => {
                arguments.get_item(1).is_ok_and(|context| was_never_retrieved(&context).unwrap_or(false))
            }
        };
        if is_counted {
            self.counters.count(self.place);
        }
    }
}

fn is_of_an_exit(kind: &Bound<'_, PyAny>) -> bool {
    kind.cast::<PyType>().is_ok_and(|kind| {
        kind.is_subclass_of::<PySystemExit>().unwrap_or(false)
            || kind.is_subclass_of::<PyKeyboardInterrupt>().unwrap_or(false)
    })
}

/// Whether a loop reports a task or a future whose exception nobody has asked for.
fn was_never_retrieved(context: &Bound<'_, PyAny>) -> PyResult<bool> {
    let names = names(context.py());
    let context = context.cast::<PyDict>()?;
    let Some(exception) = context.get_item(names.exception)? else { return Ok(false) };
    let Some(message) = context.get_item(names.message)? else { return Ok(false) };
    let is_message = message.cast::<PyString>()?.to_string_lossy().ends_with(NEVER_RETRIEVED);
    Ok(is_message && !is_of_an_exit(exception.get_type().as_any()))
}

/// How the message of asyncio ends; it begins with the class.
const NEVER_RETRIEVED: &str = "exception was never retrieved";

/// The names that are looked up while an exception is reported. They are interned before a hook is installed.
struct Names<'py> {
    exc_type: &'py Bound<'py, PyString>,
    exception: &'py Bound<'py, PyString>,
    message: &'py Bound<'py, PyString>,
    default_handler: &'py Bound<'py, PyString>,
}

fn names(py: Python<'_>) -> Names<'_> {
    Names {
        exc_type: intern!(py, "exc_type"),
        exception: intern!(py, "exception"),
        message: intern!(py, "message"),
        default_handler: intern!(py, "default_exception_handler"),
    }
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
static EXCEPTION_HANDLER: Function = Function::named(c"exception_handler");

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
        let given = Borrowed::from_ptr(py, arguments);
        let given = given.cast_unchecked::<PyTuple>();
        hook.observe(&given);
        if hook.place == Uncaught::NeverRetrieved && previous.is_none(py) {
            return match call_default_handler(&given) {
                Ok(result) => result.into_ptr(),
                Err(error) => {
                    error.restore(py);
                    ptr::null_mut()
                }
            };
        }
        PyObject_Call(previous.as_ptr(), arguments, keywords)
    }
}

/// What a loop does without a handler.
fn call_default_handler<'py>(arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let (event_loop, context) = (arguments.get_item(0)?, arguments.get_item(1)?);
    event_loop.call_method1(names(arguments.py()).default_handler, (context,))
}

#[expect(unsafe_code, reason = "PyO3 makes no method without its wrapper.")]
fn bound_method<'py>(hook: &Bound<'py, ExceptionHook>) -> PyResult<Bound<'py, PyAny>> {
    let function = match hook.get().place {
        Uncaught::Main | Uncaught::Thread => &EXCEPTHOOK,
        Uncaught::Unraisable => &UNRAISABLEHOOK,
        Uncaught::NeverRetrieved => &EXCEPTION_HANDLER,
    };
    // SAFETY: the definition is static, and CPython only reads it; the method keeps its object alive.
    unsafe {
        let method = PyCFunction_New((&raw const function.0).cast_mut(), hook.as_ptr());
        Bound::from_owned_ptr_or_err(hook.py(), method)
    }
}

/// The hooks of modules; a loop has its own.
#[derive(Clone, Copy)]
pub enum Hook {
    Main,
    Thread,
    Unraisable,
}

impl Hook {
    pub const ALL: [Self; 3] = [Self::Main, Self::Thread, Self::Unraisable];

    fn place(self) -> Uncaught {
        match self {
            Self::Main => Uncaught::Main,
            Self::Thread => Uncaught::Thread,
            Self::Unraisable => Uncaught::Unraisable,
        }
    }

    /// Its module and its attribute.
    pub fn names(self, py: Python<'_>) -> (&Bound<'_, PyString>, &Bound<'_, PyString>) {
        match self {
            Self::Main => (intern!(py, "sys"), intern!(py, "excepthook")),
            Self::Thread => (intern!(py, "threading"), intern!(py, "excepthook")),
            Self::Unraisable => (intern!(py, "sys"), intern!(py, "unraisablehook")),
        }
    }
}

/// The hooks of a collector, and where they are installed.
pub struct ExceptionHooks {
    counters: Arc<UncaughtCounters>,
    /// `sys.modules`.
    modules: Py<PyDict>,
    installed: [Replaceable<Installed>; Hook::ALL.len()],
    /// They were removed for good and are not installed again.
    are_removed: AtomicBool,
    /// The first of them waits for [`GROUPS`].
    is_waiting: AtomicBool,
}

/// On CPython 3.10 it shows the parts of exception groups, also in logs, but only where the hook is still the
/// interpreter's as it is imported.
const GROUPS: &str = "exceptiongroup";

/// From this version on, the interpreter shows them itself.
const WITH_GROUPS: u32 = 0x030b_0000;

/// How often to try again if the program sets a hook meanwhile.
const MAX_TRIES: usize = 100;

/// A hook, and the function that is called.
pub struct Installed {
    pub hook: Py<ExceptionHook>,
    pub function: Py<PyAny>,
}

impl Installed {
    /// A hook of ours that is to replace this one.
    pub fn new(
        place: Uncaught,
        counters: &Arc<UncaughtCounters>,
        previous: Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        names(previous.py());
        let previous = programs_own(previous);
        let (py, counters) = (previous.py(), Arc::clone(counters));
        let is_counting = Arc::new(AtomicBool::new(true));
        let hook = ExceptionHook { place, counters, previous: previous.unbind(), is_counting };
        let hook = Bound::new(py, hook)?;
        let function = bound_method(&hook)?.unbind();
        Ok(Self { hook: hook.unbind(), function })
    }

    /// From now on it only hands on.
    fn end(&self) -> &ExceptionHook {
        let hook = self.hook.get();
        hook.is_counting.store(false, SeqCst);
        hook
    }
}

impl ExceptionHooks {
    /// Hooks that are not installed yet, in modules of these.
    pub fn new(modules: Py<PyDict>) -> Self {
        Self {
            counters: Arc::default(),
            modules,
            installed: Default::default(),
            are_removed: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
        }
    }

    /// What they count.
    pub fn counters(&self) -> Arc<UncaughtCounters> {
        Arc::clone(&self.counters)
    }

    /// Installs what is wanted and not installed, unless they were removed for good or `is_current` denies it;
    /// otherwise removes what is. To be called again and again, as a program may import `threading` late.
    pub fn update(&self, py: Python<'_>, are_wanted: bool, is_current: impl Fn() -> bool) {
        for hook in Hook::ALL {
            let is_installed = self.installed[hook as usize].load().is_some();
            // Where that fails, as there is no memory, nothing is counted.
            if are_wanted && !is_installed {
                drop(self.install(py, hook, &is_current));
            } else if is_installed && !are_wanted {
                self.counters.watch(hook.place(), false);
                drop(self.uninstall(py, hook));
            }
        }
    }

    /// Removes them for good. What they have counted stays.
    pub fn remove(&self, py: Python<'_>) {
        if !self.are_removed.swap(true, SeqCst) && self.is_waiting.load(SeqCst) {
            // The interpreter leaves there what has ended the main thread.
            let last = py.import(intern!(py, "sys")).and_then(|sys| sys.getattr(intern!(py, "last_type")));
            if last.is_ok_and(|kind| !is_of_an_exit(&kind)) {
                self.counters.count(Uncaught::Main);
            }
        }
        for hook in Hook::ALL {
            drop(self.uninstall(py, hook));
        }
    }

    fn install(&self, py: Python<'_>, hook: Hook, is_current: &impl Fn() -> bool) -> PyResult<()> {
        let place = hook.place();
        let (module, attribute) = hook.names(py);
        let Some(module) = self.modules.bind(py).get_item(module)? else {
            // No thread of threading ends without it.
            self.counters.watch(place, true);
            return Ok(());
        };
        let (_turn, lock) = (Turn::wait(py), dict_of(&module));
        for _ in 0..MAX_TRIES {
            // Its import may still be under way; or the program wants the interpreter's own, which None stands for.
            let Some(before) = module.getattr_opt(attribute)?.filter(|hook| !hook.is_none()) else {
                self.counters.watch(place, false);
                return Ok(());
            };
            let has_to_wait = matches!(hook, Hook::Main) && self.has_to_wait_for_groups(&module, &before)?;
            if matches!(hook, Hook::Main) {
                self.is_waiting.store(has_to_wait, SeqCst);
            }
            if has_to_wait {
                self.counters.watch(place, true);
                return Ok(());
            }
            // Made first, as that may let another thread set a hook.
            let new = Installed::new(place, &self.counters, before.clone())?;
            let is_settled = with_critical_section(&lock, || {
                let installed = &self.installed[hook as usize];
                if self.are_removed.load(SeqCst) || installed.load().is_some() || !is_current() {
                    return Ok(true);
                }
                if !module.getattr_opt(attribute)?.is_some_and(|current| current.is(&before)) {
                    return Ok(false);
                }
                module.setattr(attribute, &new.function)?;
                installed.store(Some(Arc::new(new)));
                self.counters.watch(place, true);
                Ok::<_, PyErr>(true)
            })?;
            if is_settled {
                break;
            }
        }
        Ok(())
    }

    /// Whether the hook must still be the interpreter's, as a library may be imported that looks at it.
    fn has_to_wait_for_groups(&self, sys: &Bound<'_, PyAny>, current: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = sys.py();
        Ok(hexversion(py)? < WITH_GROUPS
            && current.is(&sys.getattr(intern!(py, "__excepthook__"))?)
            && !self.modules.bind(py).contains(GROUPS)?)
    }

    /// If the program has set another hook meanwhile, that may call ours, which from now on only hands on.
    fn uninstall(&self, py: Python<'_>, hook: Hook) -> PyResult<()> {
        let (module, attribute) = hook.names(py);
        let installed = &self.installed[hook as usize];
        let Some(module) = self.modules.bind(py).get_item(module)? else {
            if let Some(installed) = installed.swap(None) {
                installed.end();
            }
            return Ok(());
        };
        let turn = Turn::wait(py);
        let removed = with_critical_section(&dict_of(&module), || {
            let Some(installed) = installed.swap(None) else { return Ok(None) };
            let hook = installed.end();
            if module.getattr_opt(attribute)?.is_some_and(|current| current.is(&installed.function)) {
                module.setattr(attribute, &hook.previous)?;
            }
            Ok(Some(installed))
        });
        // It may be the last to refer to a hook of the program, whose end may run code of the program.
        drop(turn);
        removed.map(drop)
    }
}

/// What has the lock that guards a module's attributes where there is no GIL.
fn dict_of<'py>(module: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    module.cast::<PyModule>().map_or_else(|_| module.clone(), |module| module.dict().into_any())
}

/// The program's hook: where another thread is disabling metrics, that thread's may still stand before it.
pub fn programs_own(mut hook: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    while let Some(ours) = owner_of::<ExceptionHook>(&hook) {
        hook = ours.get().previous.bind(hook.py()).clone();
    }
    hook
}
