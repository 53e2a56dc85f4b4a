//! What may stand in a tag.

/// The longest tag, in characters: Datadog truncates there.
pub const MAX_TAG_LENGTH: usize = 200;

/// Turns any text into a tag that cannot end the tag, the line or the packet.
#[must_use]
pub fn clean(tag: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '/');
    let cleaned: String =
        tag.chars().take(MAX_TAG_LENGTH).map(|c| if allowed(c) { c } else { '_' }).collect();
    cleaned.trim_end_matches(':').to_owned()
}
