//! Whether values grow steadily, and how fast.
//!
//! The slope is the median of the slopes between all pairs of points (Theil-Sen), which single values cannot distort.
//! It counts only where so many pairs rise that this is no chance (Mann-Kendall), and where the shape is that of a
//! line: what levels off, jumps once, or falls back again and again does not go on growing.

use std::cmp::Ordering;

/// A time and the value then.
pub type Point = (f64, f64);

/// Fewer points than these say nothing.
pub const MIN_POINTS: usize = 15;

/// From this on, growth is by chance in one of 200 series without any.
const MIN_SIGNIFICANCE: f64 = 2.58;

/// The slope of the later half, as a part of that of the earlier half. It is smaller for what levels off exponentially
/// with a time constant of up to 20 minutes, where 15 minutes of it are seen.
const MIN_OF_EARLIER: f64 = 0.7;

/// The same as a part of the whole slope, which a jump between the halves raises.
const MIN_OF_WHOLE: f64 = 0.5;

/// How much the smallest value of the later half exceeds that of the earlier one, as a part of what the slope says.
const MIN_FLOOR: f64 = 0.5;

/// The growth per unit of time of points in order of time; `None` unless they grow steadily, and by at least this much
/// from the first to the last.
#[must_use]
pub fn growth(points: &[Point], least: f64) -> Option<f64> {
    if points.len() < MIN_POINTS {
        return None;
    }
    let slope = slope(points)?;
    let grown = slope * (points.last()?.0 - points.first()?.0);
    if slope <= 0.0 || grown < least || significance(points) < MIN_SIGNIFICANCE {
        return None;
    }
    let (earlier, later) = points.split_at(points.len() / 2);
    let of_later = self::slope(later)?;
    let goes_on = of_later >= MIN_OF_EARLIER * self::slope(earlier)? && of_later >= MIN_OF_WHOLE * slope;
    let expected = slope * (later.first()?.0 - earlier.first()?.0);
    let has_risen = floor(later) - floor(earlier) >= MIN_FLOOR * expected;
    (goes_on && has_risen).then_some(slope)
}

/// The median of the slopes of all pairs.
fn slope(points: &[Point]) -> Option<f64> {
    let mut slopes: Vec<f64> =
        pairs(points).map(|(before, after)| (after.1 - before.1) / (after.0 - before.0)).collect();
    slopes.sort_unstable_by(f64::total_cmp);
    let middle = slopes.len() / 2;
    let upper = *slopes.get(middle)?;
    Some(if slopes.len() % 2 == 1 { upper } else { f64::midpoint(slopes[middle - 1], upper) })
}

/// By how many standard deviations the rising pairs outnumber the falling ones.
#[expect(clippy::cast_precision_loss, reason = "There are few points.")]
fn significance(points: &[Point]) -> f64 {
    let balance: i32 = pairs(points).map(|(before, after)| sign(after.1.total_cmp(&before.1))).sum();
    let spread = |count: usize| {
        let count = count as f64;
        count * (count - 1.0) * (2.0 * count + 5.0)
    };
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    values.sort_unstable_by(f64::total_cmp);
    let tied = values.chunk_by(|one, other| one.total_cmp(other).is_eq()).map(|equal| spread(equal.len()));
    let variance = (spread(points.len()) - tied.sum::<f64>()) / 18.0;
    if variance <= 0.0 { 0.0 } else { f64::from(balance - balance.signum()) / variance.sqrt() }
}

fn sign(ordering: Ordering) -> i32 {
    ordering as i32
}

fn floor(points: &[Point]) -> f64 {
    points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min)
}

fn pairs(points: &[Point]) -> impl Iterator<Item = (&Point, &Point)> {
    points
        .iter()
        .enumerate()
        .flat_map(|(at, before)| points[at + 1..].iter().map(move |after| (before, after)))
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// The last half hour of a series of one value a minute.
    fn window(until: u32, value: impl FnMut(u32) -> f64) -> Vec<Point> {
        let mut value = value;
        let all: Vec<_> = (0..=until).map(|minute| (f64::from(minute), value(minute))).collect();
        all[all.len().saturating_sub(31)..].to_vec()
    }

    /// Less would not count.
    const LEAST: f64 = 10.0;

    fn growth(points: &[Point]) -> Option<f64> {
        super::growth(points, LEAST)
    }

    /// At how many minutes of three hours a series counts as growing.
    fn alarms(mut series: impl FnMut(u32) -> f64) -> usize {
        let values: Vec<f64> = (0..180).map(&mut series).collect();
        (0..180).filter(|minute| growth(&window(*minute, |at| values[at as usize])).is_some()).count()
    }

    /// Roughly normal, with a standard deviation of 1.
    fn noise(random: &mut Rng) -> f64 {
        (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
    }

    #[test]
    fn a_line_grows_by_its_slope_from_the_fifteenth_point_on() {
        let line = |minute| 100.0 + 5.0 * f64::from(minute);
        assert_eq!(growth(&window(13, line)), None);
        for minute in [14, 15, 30, 100] {
            let slope = growth(&window(minute, line)).unwrap();
            assert!((slope - 5.0).abs() < 1e-9, "{slope}");
        }
    }

    #[test]
    fn the_slope_of_a_noisy_line_is_right_within_thirty_percent() {
        let mut random = Rng::with_seed(7);
        let (mut found, mut all) = (0, 0);
        for _ in 0..20 {
            // The noise is what 36 seconds add.
            let values: Vec<f64> =
                (0..60).map(|minute| 100.0 + 5.0 * f64::from(minute) + 3.0 * noise(&mut random)).collect();
            for minute in 14..60 {
                all += 1;
                if let Some(slope) = growth(&window(minute, |at| values[at as usize])) {
                    assert!((slope - 5.0).abs() < 1.5, "{slope}");
                    found += 1;
                }
            }
        }
        assert!(found * 100 > all * 97, "{found} of {all}");
    }

    #[test]
    fn single_values_do_not_hide_it() {
        let with_peaks = |minute| {
            let peak = if minute % 9 == 5 { 80.0 } else { 0.0 };
            100.0 + 5.0 * f64::from(minute) + peak
        };
        let slope = growth(&window(30, with_peaks)).unwrap();
        assert!((slope - 5.0).abs() < 1.0, "{slope}");
    }

    #[test]
    fn a_saw_tooth_does_not_grow_but_one_that_leaks_does() {
        for period in [2, 3, 5, 8, 10, 12] {
            for phase in 0..period {
                assert_eq!(
                    alarms(|minute| 20.0 * f64::from((minute + phase) % period)),
                    0,
                    "{period} {phase}"
                );
            }
        }
        assert!(alarms(|minute| 5.0 * f64::from(minute) + 20.0 * f64::from(minute % 3)) > 150);
    }

    #[test]
    fn a_warm_up_that_levels_off_does_not_grow() {
        for time_constant in [2.0, 5.0, 10.0, 20.0] {
            let warm_up = |minute| 400.0 * (1.0 - (-f64::from(minute) / time_constant).exp());
            assert_eq!(alarms(warm_up), 0, "{time_constant}");
        }
    }

    #[test]
    fn a_jump_does_not_grow() {
        for at in 0..40 {
            let mut random = Rng::with_seed(at);
            let jump = |minute| if u64::from(minute) < at { 100.0 } else { 400.0 };
            assert_eq!(alarms(|minute| jump(minute) + 2.0 * noise(&mut random)), 0, "{at}");
        }
    }

    #[test]
    fn noise_hardly_ever_grows_and_nothing_never_does() {
        let mut random = Rng::with_seed(7);
        let by_chance: usize = (0..50).map(|_| alarms(|_| 300.0 + 10.0 * noise(&mut random))).sum();
        // Of 8300 windows, which overlap.
        assert!(by_chance < 50, "{by_chance}");
        assert_eq!(alarms(|_| 300.0), 0);
        assert_eq!(alarms(|minute| 0.3 * f64::from(minute)), 0, "too little");
        assert_eq!(alarms(|minute| 1000.0 - f64::from(minute)), 0);
    }

    #[test]
    fn the_significance_is_that_of_the_textbook() {
        // All 105 pairs of 15 points rise: 104 / sqrt(15 x 14 x 35 / 18).
        let line = window(14, f64::from);
        assert!((significance(&line) - 5.1468).abs() < 1e-3, "{}", significance(&line));
        // Two values, five and ten times: 50 pairs rise; ties reduce the variance.
        let step = window(14, |minute| if minute < 5 { 0.0 } else { 1.0 });
        let variance: f64 = (7350.0 - 300.0 - 2250.0) / 18.0;
        assert!((significance(&step) - 49.0 / variance.sqrt()).abs() < 1e-9);
    }
}
