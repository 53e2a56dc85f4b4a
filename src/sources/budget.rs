//! How often a read is made that may cost the program too much: the more the last one cost, the longer until the next,
//! and never again if it costs more than any of them may.
//!
//! It has no lock, which a child process could inherit locked.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::snapshot::Withheld;

/// The time at which a read that was given up is due.
const NEVER: u64 = u64::MAX;

/// What a read may cost, and how often.
#[derive(Debug)]
pub struct Terms {
    /// The read, and what it is made for, as a warning names them.
    pub read: &'static str,
    /// The cheapest first.
    pub tiers: &'static [Tier],
    /// How many reads in a row may cost more than the last tier allows, until no more are made: one alone may have been
    /// interrupted by the system. After each of them the period of the last tier passes.
    pub max_excesses: u32,
}

/// How long to wait after a read that cost no more than this.
#[derive(Clone, Copy, Debug)]
pub struct Tier {
    /// The most that such a read costs.
    pub max_cost: Duration,
    /// The time until the next one; zero if every flush may make one.
    pub period: Duration,
}

/// The budget of one read.
#[derive(Debug)]
pub struct Budget {
    terms: &'static Terms,
    /// When the next one is due, in nanoseconds.
    due: AtomicU64,
    /// What the last one cost, in nanoseconds.
    cost: AtomicU64,
    /// How many of the last ones cost more than the last tier allows.
    excesses: AtomicU32,
    /// It was given up, and nobody knows yet.
    has_news: AtomicBool,
}

impl Budget {
    /// A budget of which nothing is spent: a read is due.
    #[must_use]
    pub const fn new(terms: &'static Terms) -> Self {
        Self {
            terms,
            due: AtomicU64::new(0),
            cost: AtomicU64::new(0),
            excesses: AtomicU32::new(0),
            has_news: AtomicBool::new(false),
        }
    }

    /// Why no read is made at `now`; `None` if one is due.
    #[must_use]
    pub fn withheld(&self, now: Duration) -> Option<Withheld> {
        match self.due.load(SeqCst) {
            NEVER => Some(Withheld::GivenUp { cost: Duration::from_nanos(self.cost.load(SeqCst)) }),
            due => (Duration::from_nanos(due) > now).then_some(Withheld::Until(Duration::from_nanos(due))),
        }
    }

    /// Makes the read if it is due, and charges what it costs; `clock` is read before and after it.
    pub fn spend<T>(&self, clock: impl Fn() -> Duration, read: impl FnOnce() -> T) -> Option<T> {
        let begun = clock();
        if self.withheld(begun).is_some() {
            return None;
        }
        let value = read();
        let now = clock();
        self.charge(now, now.saturating_sub(begun));
        Some(value)
    }

    /// Begins anew, as in a child process, whose reads may cost something else.
    pub fn renew(&self) {
        self.due.store(0, SeqCst);
        self.cost.store(0, SeqCst);
        self.excesses.store(0, SeqCst);
        self.has_news.store(false, SeqCst);
    }

    /// Lets the next read be due at once, unless it was given up.
    pub fn demand(&self) {
        // What is never due stays so.
        let _ = self.due.try_update(SeqCst, SeqCst, |due| (due != NEVER).then_some(0));
    }

    /// What is read, and what the last read cost, if it was given up since the last call.
    #[must_use]
    pub fn take_given_up(&self) -> Option<(&'static str, Duration)> {
        let cost = || Duration::from_nanos(self.cost.load(SeqCst));
        self.has_news.swap(false, SeqCst).then(|| (self.terms.read, cost()))
    }

    fn charge(&self, now: Duration, cost: Duration) {
        self.cost.store(nanoseconds(cost), SeqCst);
        let Terms { tiers, max_excesses, .. } = self.terms;
        let tier = tiers.iter().find(|tier| cost <= tier.max_cost);
        let excesses = if tier.is_some() { 0 } else { self.excesses.load(SeqCst) + 1 };
        self.excesses.store(excesses, SeqCst);
        if excesses > *max_excesses {
            self.due.store(NEVER, SeqCst);
            self.has_news.store(true, SeqCst);
        } else {
            let period = tier.or(tiers.last()).map_or(Duration::ZERO, |tier| tier.period);
            self.due.store(nanoseconds(now + period), SeqCst);
        }
    }
}

/// Enough for 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MINUTE: Duration = Duration::from_mins(1);

    static TERMS: Terms = Terms {
        read: "a walk",
        tiers: &[
            Tier { max_cost: MS, period: Duration::ZERO },
            Tier { max_cost: Duration::from_millis(5), period: MINUTE },
        ],
        max_excesses: 1,
    };

    /// Makes a read at `now` that takes so long; whether it was made.
    fn read(budget: &Budget, now: Duration, cost: Duration) -> bool {
        let clock = Cell::new(now);
        budget.spend(|| clock.get(), || clock.set(now + cost)).is_some()
    }

    #[test]
    fn a_cheap_read_is_always_due() {
        let budget = Budget::new(&TERMS);
        for second in 0..3 {
            assert!(read(&budget, Duration::from_secs(second), MS));
        }
    }

    #[test]
    fn after_a_dear_read_a_period_passes() {
        let budget = Budget::new(&TERMS);
        assert!(read(&budget, MINUTE, 2 * MS));
        let due = 2 * MINUTE + 2 * MS;
        assert_eq!(budget.withheld(2 * MINUTE), Some(Withheld::Until(due)));
        assert!(!read(&budget, 2 * MINUTE + MS, MS));
        assert!(read(&budget, due, MS));
        assert!(read(&budget, due + MS, MS), "the last one was cheap");
    }

    #[test]
    fn a_read_that_is_too_dear_again_and_again_is_given_up_which_is_news_once() {
        let budget = Budget::new(&TERMS);
        assert!(read(&budget, MINUTE, 6 * MS));
        assert!(!read(&budget, MINUTE + 7 * MS, MS), "one alone may have been interrupted");
        assert_eq!(budget.take_given_up(), None);
        assert!(read(&budget, 3 * MINUTE, 7 * MS));
        assert_eq!(budget.withheld(90 * MINUTE), Some(Withheld::GivenUp { cost: 7 * MS }));
        assert_eq!(budget.take_given_up(), Some(("a walk", 7 * MS)));
        assert_eq!(budget.take_given_up(), None);
        budget.demand();
        assert!(!read(&budget, 90 * MINUTE, MS));
    }

    #[test]
    fn a_read_that_was_interrupted_once_goes_on() {
        let budget = Budget::new(&TERMS);
        for minute in [1, 3, 5, 7] {
            assert!(read(&budget, minute * MINUTE, 6 * MS));
            assert!(read(&budget, (minute + 1) * MINUTE + 6 * MS, MS));
        }
        assert_eq!(budget.take_given_up(), None);
    }

    #[test]
    fn a_budget_that_is_renewed_knows_nothing_of_what_was_given_up() {
        let budget = Budget::new(&TERMS);
        assert!(read(&budget, MINUTE, 6 * MS) && read(&budget, 3 * MINUTE, 6 * MS));
        budget.renew();
        assert_eq!((budget.withheld(MINUTE), budget.take_given_up()), (None, None));
        assert!(
            read(&budget, 5 * MINUTE, 6 * MS) && read(&budget, 7 * MINUTE, MS),
            "one alone is not given up"
        );
    }

    #[test]
    fn a_read_can_be_demanded_before_it_is_due() {
        let budget = Budget::new(&TERMS);
        assert!(read(&budget, MINUTE, 5 * MS));
        assert!(!read(&budget, MINUTE + 6 * MS, MS));
        budget.demand();
        assert!(read(&budget, MINUTE + 6 * MS, MS));
    }
}
