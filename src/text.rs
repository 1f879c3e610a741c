//! Untrusted text: sanitizing and truncating.
//!
//! Names and messages of backups can carry instructions for a model in characters that no screen
//! shows. Removed are control characters, the characters that Unicode calls default-ignorable
//! (zero-width, bidirectional, tag characters, variation selectors), and its other format
//! characters. Line breaks and tabs become spaces. Joiners stay where a script or an emoji needs them.

use serde_json::Value;

/// Whether a JSON text needs no sanitizing: it is printable ASCII without escapes.
pub(crate) fn is_printable_ascii(json: &str) -> bool {
    json.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\')
}

/// Sanitizes every string in a JSON value, object keys included.
pub(crate) fn sanitize_json(value: &mut Value) {
    match value {
        Value::String(string) => sanitize(string),
        Value::Array(values) => values.iter_mut().for_each(sanitize_json),
        Value::Object(fields) => {
            fields.values_mut().for_each(sanitize_json);
            if fields.keys().any(|key| has_hidden(key)) {
                for (mut key, value) in std::mem::take(fields) {
                    sanitize(&mut key);
                    fields.insert(key, value);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Sanitizes a text and keeps at most 300 characters of it: its first 200 and its last 100.
pub(crate) fn excerpt(long: &str) -> String {
    const HEAD: usize = 200;
    const TAIL: usize = 100;
    let length = long.chars().count();
    let mut short = if length <= HEAD + TAIL {
        long.to_owned()
    } else {
        let tail = long.chars().skip(length - TAIL);
        long.chars().take(HEAD).chain(['…']).chain(tail).collect()
    };
    sanitize(&mut short);
    short
}

/// Sanitizes the first `max` characters of a text.
pub(crate) fn truncate(long: &str, max: usize) -> String {
    let mut short: String = long.chars().take(max).collect();
    sanitize(&mut short);
    short
}

/// Replaces a string that holds a JSON object by that object: some hosts send objects as text.
pub(crate) fn parse_embedded_json(value: &mut Value) {
    if let Some(text) = value.as_str()
        && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
    {
        *value = object;
    }
}

/// Removes hidden characters in place.
pub(crate) fn sanitize(text: &mut String) {
    if has_hidden(text) {
        let characters: Vec<char> = text.chars().collect();
        *text = (0..characters.len())
            .filter_map(|at| match characters[at] {
                '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
                shown => stays(characters.split_at(at)).then_some(shown),
            })
            .collect();
    }
}

/// Removes what cannot be seen before a text, and blanks behind it: the variation selector of an emoji may be
/// the last character.
pub(crate) fn trim(text: &str) -> &str {
    // The braille pattern without dots looks like a space.
    let is_blank = |c: char| is_hidden(c) || c.is_whitespace() || c == '\u{2800}';
    text.trim_start_matches(is_blank).trim_end()
}

/// Whether the first character of the second part stays: it is not hidden, or its neighbours need it. In
/// Persian and Hindi, U+200C and U+200D spell a word; in emoji, U+200D and U+FE0F make one of several.
fn stays((before, rest): (&[char], &[char])) -> bool {
    match (before, rest) {
        (_, [shown, ..]) if !is_hidden(*shown) => true,
        ([.., left], ['\u{200c}' | '\u{200d}', right, ..]) if joins(*left) && joins(*right) => true,
        ([.., left], ['\u{fe0f}', ..]) => is_emoji(*left),
        ([.., left, '\u{fe0f}'] | [.., left], ['\u{200d}', right, ..]) => {
            is_emoji(*left) && is_emoji(*right)
        }
        _ => false,
    }
}

/// Blocks of scripts whose letters join: Arabic to Arabic Extended-A, the scripts of India, Myanmar, Khmer
/// and Mongolian, and the presentation forms of Arabic.
fn joins(character: char) -> bool {
    !is_hidden(character)
        && matches!(character,
            '\u{620}'..='\u{8ff}' | '\u{900}'..='\u{dff}' | '\u{1000}'..='\u{109f}'
            | '\u{1780}'..='\u{18aa}' | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}')
}

/// Blocks of symbols that can be part of an emoji.
fn is_emoji(character: char) -> bool {
    matches!(character,
        '\u{a9}' | '\u{ae}' | '\u{203c}' | '\u{2049}' | '\u{2122}' | '\u{2139}'
        | '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{27bf}' | '\u{2900}'..='\u{297f}'
        | '\u{2b00}'..='\u{2bff}' | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}'
        | '\u{1f000}'..='\u{1faff}')
}

/// Printable ASCII, the common case, is decided without decoding characters.
fn has_hidden(text: &str) -> bool {
    !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.contains(is_hidden)
}

/// General category Cc; general category Cf; property `Default_Ignorable_Code_Point`; the line and
/// paragraph separators (Unicode 16).
pub(crate) fn is_hidden(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}'
        | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn cleaned(dirty: &str) -> String {
        let mut clean = dirty.to_owned();
        sanitize(&mut clean);
        clean
    }

    #[test]
    fn hidden_characters_go_and_words_stay_apart() {
        for (dirty, clean) in [
            ("nightly 🚀", "nightly 🚀"),
            ("نسخة", "نسخة"),
            // Persian and Hindi words, a heart on fire, a family, a flag.
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
            ("क्\u{200d}ष", "क्\u{200d}ष"),
            ("❤\u{fe0f}\u{200d}🔥", "❤\u{fe0f}\u{200d}🔥"),
            ("👩🏽\u{200d}👧", "👩🏽\u{200d}👧"),
            ("🏳\u{fe0f}\u{200d}🌈!", "🏳\u{fe0f}\u{200d}🌈!"),
            // Joiners that join nothing, and runs of them.
            ("a\u{200c}b\u{200d}", "ab"),
            ("م\u{200c}\u{200c}ن\u{200c}", "من"),
            ("🔥\u{200d}a\u{fe0f}", "🔥a"),
            ("🔥\u{fe0f}\u{fe0f}", "🔥\u{fe0f}"),
            ("🏴\u{e0067}\u{e007f}", "🏴"),
            ("a\nb\tc\r\nd", "a b c  d"),
            ("\u{1b}[31mred", "[31mred"),
            ("left\u{202e}right\u{202c}", "leftright"),
            ("zero\u{200b}width\u{feff}", "zerowidth"),
            // "hi" in tag characters, and a byte smuggled in a variation selector.
            ("x\u{e0068}\u{e0069}y\u{e0142}", "xy"),
        ] {
            assert_eq!(cleaned(dirty), clean, "{dirty:?}");
        }
    }

    #[test]
    fn no_text_of_a_value_is_missed() {
        let dirt = "a\u{202e}b";
        let mut any = json!({
            "name": dirt,
            "status": { "state": dirt, "steps": [{ dirt: dirt }] },
            "labels": { dirt: [dirt, [dirt], 1, null, true] },
        });
        sanitize_json(&mut any);
        let clean = json!({
            "name": "ab",
            "status": { "state": "ab", "steps": [{ "ab": "ab" }] },
            "labels": { "ab": ["ab", ["ab"], 1, null, true] },
        });
        assert_eq!(any, clean);
    }

    #[test]
    fn an_excerpt_shows_both_ends() {
        assert_eq!(excerpt("short"), "short");
        let long = format!("begin {} end", "x".repeat(1_000_000));
        let short = excerpt(&long);
        assert!(short.starts_with("begin x") && short.ends_with("x end"));
        assert_eq!(short.chars().count(), 301);
    }

    proptest! {
        #[test]
        fn cleaning_leaves_only_joiners_hidden_and_is_done_once(
            any in "\\PC*|.*|[a\u{200b}-\u{200d}\u{fe0f}❤🔥من]*"
        ) {
            let once = cleaned(&any);
            prop_assert_eq!(cleaned(&once), once.clone());
            let joiners = ['\u{200c}', '\u{200d}', '\u{fe0f}'];
            let hidden: Vec<char> = once.chars().filter(|c| is_hidden(*c)).collect();
            prop_assert!(hidden.iter().all(|c| joiners.contains(c)), "{:?}", once);
        }
    }
}
