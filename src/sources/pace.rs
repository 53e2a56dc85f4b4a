//! How long something pauses that is repeated while the program runs: at random, so that it does not fall into step
//! with periodic work of the program, and longer while the process does little.

use std::time::Duration;

use fastrand::Rng;

use crate::clock;

/// A process that uses less than one part in so many of a core does little.
const IDLE_SHARE: u32 = 20;

/// How long it is taken for granted that a process does little, or does not: to find out, the kernel adds up the CPU
/// time of every thread.
const REVIEW: Duration = Duration::from_secs(2);

/// The pauses of something that is repeated.
#[derive(Debug, Default)]
pub struct Pace {
    last: Option<Review>,
    random: Option<Rng>,
}

/// What was found out about the process.
#[derive(Clone, Copy, Debug)]
struct Review {
    at: Duration,
    /// Its CPU time then.
    cpu: Duration,
    /// It has done little.
    is_idle: bool,
}

impl Pace {
    /// The next pause: `busy` on average, or `idle` while the process does little.
    pub fn choose(&mut self, now: Duration, busy: Duration, idle: Duration) -> Duration {
        let mean = if self.is_idle(now) { idle } else { busy };
        let seed = || u64::from(clock::since_epoch().subsec_nanos());
        let random = self.random.get_or_insert_with(|| Rng::with_seed(seed()));
        mean.mul_f64(0.5 + random.f64())
    }

    /// Whether the process does little; unknown at first, and where there is no such clock, it does not.
    fn is_idle(&mut self, now: Duration) -> bool {
        if let Some(last) = self.last
            && now.saturating_sub(last.at) < REVIEW
        {
            return last.is_idle;
        }
        let review = clock::cpu_of_process().map(|cpu| {
            let is_idle = self
                .last
                .is_some_and(|last| cpu.saturating_sub(last.cpu) * IDLE_SHARE < now.saturating_sub(last.at));
            Review { at: now, cpu, is_idle }
        });
        self.last = review;
        review.is_some_and(|review| review.is_idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);

    #[test]
    fn pauses_vary_around_their_mean() {
        let mut pace = Pace::default();
        let pauses: Vec<_> = (0..200).map(|_| pace.choose(Duration::ZERO, PAUSE, 2 * PAUSE)).collect();
        let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*shortest >= PAUSE / 2 && *longest <= PAUSE * 3 / 2, "{shortest:?} {longest:?}");
        assert!(*longest > *shortest + PAUSE / 2, "{shortest:?} {longest:?}");
    }

    #[cfg(unix)]
    #[test]
    fn pauses_are_longer_while_the_process_does_little() {
        let mut pace = Pace::default();
        let mut choose = |now| pace.choose(now, PAUSE, 2 * PAUSE);
        choose(Duration::ZERO);
        // Hours, in which this process has used no CPU to speak of.
        let idle = (1..100).map(|hour| choose(Duration::from_hours(hour)));
        assert!(idle.max() > Some(PAUSE * 3 / 2));
    }
}
