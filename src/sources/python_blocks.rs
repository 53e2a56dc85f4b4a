//! How often Python is asked for the number of blocks that it has allocated. It holds the GIL while it looks at every
//! pool of its memory: 1 ms per GB.

use std::ops::Deref;
use std::time::Duration;

use super::budget::{Budget, Terms, Tier};

/// A thread that computes holds the GIL for 5 ms as well, before it hands it over.
static TERMS: Terms = Terms {
    read: "sys.getallocatedblocks(), for runtime.python.mem.python.blocks,",
    tiers: &[
        Tier { max_cost: Duration::from_micros(200), period: Duration::ZERO },
        Tier { max_cost: Duration::from_millis(1), period: Duration::from_mins(1) },
        Tier { max_cost: Duration::from_millis(5), period: Duration::from_mins(10) },
    ],
    max_excesses: 1,
};

/// The budget of `sys.getallocatedblocks()`.
#[derive(Debug)]
pub struct PythonBlocks(Budget);

impl Default for PythonBlocks {
    fn default() -> Self {
        Self(Budget::new(&TERMS))
    }
}

impl Deref for PythonBlocks {
    type Target = Budget;

    fn deref(&self) -> &Budget {
        &self.0
    }
}
