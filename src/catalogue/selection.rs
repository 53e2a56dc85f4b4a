//! Which rows of the catalogue are sent: those of a level, with what was added and taken away by name.

use super::metric::{Level, Sample};
use super::{CATALOGUE, PREFIX};
use crate::interval::Interval;
use crate::snapshot::SourceSet;

/// How many words of 64 bits hold one bit a row.
const WORDS: usize = CATALOGUE.len().div_ceil(64);

/// What became of the rows of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows that had samples.
    pub sent: Selection,
    /// Rows that had none, although their value is known: it is not to be sent every time.
    pub quiet: Selection,
}

/// A set of rows of the catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection([u64; WORDS]);

impl Selection {
    /// The rows of a level and of those below it, without those that have to be named.
    #[must_use]
    pub fn at(level: Level) -> Self {
        Self::of(|row| CATALOGUE[row].level <= level && !CATALOGUE[row].by_name)
    }

    /// The rows that a pattern names, by [`is_named`].
    #[must_use]
    pub fn named(pattern: &str) -> Self {
        Self::of(|row| is_named(CATALOGUE[row].name, pattern))
    }

    /// Whether a row is in the set.
    #[must_use]
    pub fn contains(self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 == 1
    }

    /// The number of rows in the set.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The union of both sets.
    #[must_use]
    pub fn with(self, others: Self) -> Self {
        self.combined(others, |word, other| word | other)
    }

    /// This set without the rows of the other.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        self.combined(others, |word, other| word & !other)
    }

    /// The names of its rows, in catalogue order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CATALOGUE
            .iter()
            .enumerate()
            .filter(move |(row, _)| self.contains(*row))
            .map(|(_, metric)| metric.name)
    }

    /// The most tags that a metric of the runtime among its rows has of its own.
    #[must_use]
    pub fn max_own_tags(self) -> usize {
        let rows = CATALOGUE.iter().enumerate().filter(|(row, _)| self.contains(*row));
        let of_runtime = rows.filter(|(_, metric)| metric.name.starts_with(PREFIX));
        of_runtime.map(|(_, metric)| metric.reading.tags().len()).max().unwrap_or(0)
    }

    /// The sources that its rows need.
    #[must_use]
    pub fn needs(self) -> SourceSet {
        let rows = CATALOGUE.iter().enumerate().filter(|(row, _)| self.contains(*row));
        rows.flat_map(|(_, metric)| metric.needs.iter().copied()).collect()
    }

    fn of(is_in: impl Fn(usize) -> bool) -> Self {
        let mut set = Self::default();
        (0..CATALOGUE.len()).filter(|row| is_in(*row)).for_each(|row| set.insert(row));
        set
    }

    fn insert(&mut self, row: usize) {
        self.0[row / 64] |= 1 << (row % 64);
    }

    fn combined(self, others: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|word| combine(self.0[word], others.0[word])))
    }
}

/// Whether a pattern names a metric: by its name or `group.*`, each with or without `runtime.python.` where the name
/// begins so.
#[must_use]
pub fn is_named(name: &str, pattern: &str) -> bool {
    let matches = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
        Some(group) if group.is_empty() || group.ends_with('.') => name.starts_with(group),
        _ => name == pattern,
    };
    let short = pattern.strip_prefix(PREFIX).unwrap_or(pattern);
    name.strip_prefix(PREFIX).map_or_else(|| matches(name, pattern), |name| matches(name, short))
}

/// The samples of an interval that are selected, in catalogue order; what is unknown is left out.
#[must_use]
pub fn samples(selection: Selection, interval: &Interval<'_>) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(CATALOGUE.len());
    append_samples(&mut samples, selection, interval);
    samples
}

/// Appends the samples of an interval that are selected, as [`samples`] gives them; returns what became of each row.
pub fn append_samples(samples: &mut Vec<Sample>, selection: Selection, interval: &Interval<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    // A loop, as what iterators make of this takes three times as long.
    for (row, metric) in CATALOGUE.iter().enumerate() {
        if selection.contains(row) {
            let before = samples.len();
            let take = |member, value| samples.push(Sample { metric, member, value });
            let is_quiet = metric.reading.read(interval, take);
            if samples.len() > before {
                outcome.sent.insert(row);
            } else if is_quiet {
                outcome.quiet.insert(row);
            }
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Source;

    fn names(selection: Selection) -> Vec<&'static str> {
        selection.names().map(|name| name.strip_prefix(PREFIX).unwrap_or(name)).collect()
    }

    fn is_in(row: usize, group: &str) -> bool {
        CATALOGUE[row].name.strip_prefix(PREFIX).is_some_and(|name| name.starts_with(group))
    }

    #[test]
    fn a_pattern_is_a_name_or_a_group_with_or_without_the_prefix() {
        assert_eq!(names(Selection::named("mem.rss")), ["mem.rss"]);
        assert_eq!(names(Selection::named("runtime.python.mem.rss")), ["mem.rss"]);
        for (pattern, group) in [("gc.pause.*", "gc.pause."), ("runtime.python.cpu.time.*", "cpu.time.")] {
            assert_eq!(
                names(Selection::named(pattern)),
                names(Selection::of(|row| is_in(row, group))),
                "{pattern}"
            );
            assert!(Selection::named(pattern).len() >= 2);
        }
        assert_eq!(names(Selection::named("gunicorn.log.error")), ["gunicorn.log.error"]);
        assert_eq!(names(Selection::named("*")).len(), CATALOGUE.len());
        for pattern in [
            "",
            "mem",
            "mem.",
            "mem.r*",
            "mem*",
            "MEM.RSS",
            "runtime.python.",
            "**",
            "thread_count.*",
            "runtime.python.gunicorn.requests",
        ] {
            assert!(Selection::named(pattern).is_empty(), "{pattern}");
        }
    }

    #[test]
    fn sets_are_united_and_subtracted() {
        let all = Selection::at(Level::Default);
        let gc = Selection::of(|row| is_in(row, "gc.") && all.contains(row));
        let without = all.without(Selection::named("gc.*"));
        assert_eq!(without.len() + gc.len(), all.len());
        assert!(!without.is_empty() && names(without).iter().all(|name| !name.starts_with("gc.")));
        let with = without.with(Selection::named("gc.pause.max"));
        assert_eq!(names(with.without(without)), ["gc.pause.max"]);
    }

    #[test]
    fn the_most_tags_of_its_own_has_what_describes_the_process() {
        let standard = Selection::at(Level::Standard);
        assert_eq!(standard.max_own_tags(), crate::snapshot::Description::default().tags().len());
        assert_eq!(standard.without(Selection::named("info")).max_own_tags(), 1);
        assert_eq!(Selection::at(Level::Default).max_own_tags(), 0);
    }

    #[test]
    fn a_selection_needs_the_sources_of_its_rows_alone() {
        let needs = Selection::named("mem.rss").needs();
        assert!(needs.contains(Source::Memory) && !needs.contains(Source::Threads));
        assert_eq!(Selection::default().needs(), SourceSet::default());
    }
}
