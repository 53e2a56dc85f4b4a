//! What describes an interpreter, decided by what it reports of itself.

/// From this `sys.hexversion` on the garbage collector was incremental, up to the next: 3.14.0 to 3.14.4.
const INCREMENTAL: std::ops::Range<u32> = 0x030e_0000..0x030e_0500;

/// Before this `sys.hexversion` there was no JIT: 3.13.
const FIRST_WITH_JIT: u32 = 0x030d_0000;

/// Whether a free-threaded build has its GIL, although neither `PYTHON_GIL` nor an option has asked for it.
#[must_use]
pub fn is_gil_reenabled(is_enabled: bool, is_asked_for: bool) -> bool {
    is_enabled && !is_asked_for
}

/// The state of the GIL.
#[must_use]
pub fn gil(is_enabled: bool, is_reenabled: Option<bool>) -> &'static str {
    match (is_enabled, is_reenabled) {
        (_, Some(true)) => "reenabled",
        (true, _) => "on",
        (false, _) => "off",
    }
}

/// The state of the JIT, if the interpreter reports it or is too old to have one.
#[must_use]
pub fn jit(is_enabled: Option<bool>, hexversion: u32) -> Option<&'static str> {
    match is_enabled {
        Some(true) => Some("on"),
        Some(false) => Some("off"),
        None => (hexversion < FIRST_WITH_JIT).then_some("off"),
    }
}

/// How garbage is collected.
#[must_use]
pub fn gc_implementation(is_free_threaded: bool, hexversion: u32) -> &'static str {
    if is_free_threaded {
        "free_threaded"
    } else if INCREMENTAL.contains(&hexversion) {
        "incremental"
    } else {
        "generational"
    }
}

/// What Python allocates objects with, by `PYTHONMALLOC`.
#[must_use]
pub fn allocator(setting: &str, is_free_threaded: bool) -> &'static str {
    match setting {
        "malloc" | "malloc_debug" => "malloc",
        "mimalloc" | "mimalloc_debug" => "mimalloc",
        _ if is_free_threaded => "mimalloc",
        _ => "pymalloc",
    }
}

/// What slows the program down: the first that is on.
#[must_use]
pub fn debug(are_on: [(&'static str, bool); 5]) -> &'static str {
    are_on.into_iter().find_map(|(name, is_on)| is_on.then_some(name)).unwrap_or("none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gil_is_reenabled_where_it_is_on_and_nobody_asked_for_it() {
        for (is_enabled, is_asked_for, expected) in
            [(false, false, "off"), (false, true, "off"), (true, true, "on"), (true, false, "reenabled")]
        {
            let is_reenabled = is_gil_reenabled(is_enabled, is_asked_for);
            assert_eq!(is_reenabled, expected == "reenabled");
            assert_eq!(gil(is_enabled, Some(is_reenabled)), expected);
        }
        assert_eq!(gil(true, None), "on");
    }

    #[test]
    fn the_collector_is_that_of_the_full_version() {
        for (hexversion, expected) in [
            (0x030a_0df0, "generational"),
            (0x030d_00f0, "generational"),
            (0x030e_00f0, "incremental"),
            (0x030e_04f0, "incremental"),
            (0x030e_05f0, "generational"),
            (0x030f_02f0, "generational"),
        ] {
            assert_eq!(gc_implementation(false, hexversion), expected, "{hexversion:x}");
            assert_eq!(gc_implementation(true, hexversion), "free_threaded");
        }
    }

    #[test]
    fn an_unknown_jit_is_off_before_there_was_one() {
        assert_eq!(jit(None, 0x030c_01f0), Some("off"));
        assert_eq!(jit(None, 0x030d_00f0), None);
        assert_eq!(jit(Some(true), 0x030e_00f0), Some("on"));
        assert_eq!(jit(Some(false), 0x030e_00f0), Some("off"));
    }

    #[test]
    fn the_allocator_is_that_of_the_variable_or_the_builds_own() {
        for (setting, usual, free_threaded) in [
            ("", "pymalloc", "mimalloc"),
            ("debug", "pymalloc", "mimalloc"),
            ("pymalloc_debug", "pymalloc", "mimalloc"),
            ("malloc", "malloc", "malloc"),
            ("malloc_debug", "malloc", "malloc"),
            ("mimalloc", "mimalloc", "mimalloc"),
        ] {
            assert_eq!([allocator(setting, false), allocator(setting, true)], [usual, free_threaded]);
        }
    }

    #[test]
    fn the_first_that_is_on_is_named() {
        let debug = |first, last| debug([("a", first), ("b", last), ("c", false), ("d", last), ("e", false)]);
        assert_eq!([debug(true, true), debug(false, true), debug(false, false)], ["a", "b", "none"]);
    }
}
