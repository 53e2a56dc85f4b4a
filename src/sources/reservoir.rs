//! A reservoir sample of the values that one interval observes, so that memory and lines stay bounded however many
//! there are: of all values each is kept with the same probability.

use std::time::Duration;

use fastrand::Rng;

use crate::snapshot::server::Observations;

/// The most values that are kept of one interval.
pub const MAX_KEPT: usize = 4096;

/// The sample, and how many values it stands for.
#[derive(Debug)]
pub struct Reservoir {
    observations: Observations,
    random: Rng,
}

impl Reservoir {
    /// An empty sample; `seed` starts its random numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { observations: Observations::default(), random: Rng::with_seed(seed) }
    }

    /// Keeps the value, or lets chance decide whether it replaces another.
    pub fn add(&mut self, value: Duration) {
        let value = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let Observations { kept, seen } = &mut self.observations;
        *seen += 1;
        if kept.len() < MAX_KEPT {
            kept.push(value);
        } else if let Ok(index) = usize::try_from(self.random.u64(..*seen))
            && let Some(replaced) = kept.get_mut(index)
        {
            *replaced = value;
        }
    }

    /// The sample so far.
    #[must_use]
    pub fn read(&self) -> Observations {
        self.observations.clone()
    }

    /// The sample so far, and starts another.
    #[must_use]
    pub fn drain(&mut self) -> Observations {
        std::mem::take(&mut self.observations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_kept_while_there_is_room() {
        let mut reservoir = Reservoir::new(7);
        for microseconds in [3, 1, 2] {
            reservoir.add(Duration::from_micros(microseconds));
        }
        assert_eq!(reservoir.read(), Observations { kept: vec![3, 1, 2], seen: 3 });
        assert_eq!(reservoir.drain().seen, 3);
        assert_eq!(reservoir.read(), Observations::default());
    }

    #[test]
    fn of_many_values_each_is_kept_with_the_same_probability() {
        let mut reservoir = Reservoir::new(7);
        let many = 10 * MAX_KEPT as u64;
        for value in 0..many {
            reservoir.add(Duration::from_micros(value));
        }
        let Observations { mut kept, seen } = reservoir.drain();
        assert_eq!((kept.len(), seen), (MAX_KEPT, many));
        kept.sort_unstable();
        kept.dedup();
        assert_eq!(kept.len(), MAX_KEPT);
        // Each tenth of what was seen has a tenth of what was kept, within five standard deviations.
        for tenth in 0..10 {
            let bounds = tenth * MAX_KEPT as u64..(tenth + 1) * MAX_KEPT as u64;
            let share = kept.iter().filter(|value| bounds.contains(value)).count();
            assert!((313..=506).contains(&share), "{share} of tenth {tenth}");
        }
    }
}
