//! How long something pauses that is repeated while the program runs: at random, so that it does not fall into step
//! with periodic work of the program, and longer while the process does little.

use std::time::Duration;

use fastrand::Rng;

use crate::clock;

/// A process that uses less than one part in so many of a core does little.
const IDLE_SHARE: u32 = 20;

/// The pauses of something that is repeated.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the last pause was chosen, and the CPU time of the process then.
    last: Option<(Duration, Duration)>,
    random: Option<Rng>,
}

impl Pace {
    /// The next pause: `busy` on average, or `idle` while the process does little.
    pub fn choose(&mut self, now: Duration, busy: Duration, idle: Duration) -> Duration {
        let cpu = clock::cpu_of_process();
        let last = std::mem::replace(&mut self.last, cpu.map(|cpu| (now, cpu)));
        let is_idle = last.zip(cpu).is_some_and(|((then, before), cpu)| {
            cpu.saturating_sub(before) * IDLE_SHARE < now.saturating_sub(then)
        });
        let mean = if is_idle { idle } else { busy };
        let seed = || u64::from(clock::since_epoch().subsec_nanos());
        let random = self.random.get_or_insert_with(|| Rng::with_seed(seed()));
        mean.mul_f64(0.5 + random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);

    #[test]
    fn pauses_vary_around_their_mean() {
        let mut pace = Pace::default();
        let mut choose = |now| pace.choose(now, PAUSE, 2 * PAUSE);
        let pauses: Vec<_> = (0..200).map(|_| choose(Duration::ZERO)).collect();
        let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*shortest >= PAUSE / 2 && *longest <= PAUSE * 3 / 2, "{shortest:?} {longest:?}");
        assert!(*longest > *shortest + PAUSE / 2, "{shortest:?} {longest:?}");
        // Hours, in which this process has used no CPU to speak of.
        let idle = (1..100).map(|hour| choose(Duration::from_hours(hour)));
        assert!(idle.max() > Some(PAUSE * 3 / 2));
    }
}
