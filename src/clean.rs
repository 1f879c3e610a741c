//! Other people's text, made fit for a model, or for a person at a terminal, to read.
//!
//! Names and messages of backups can hide instructions from people in characters that no screen
//! shows. What is removed: control characters, the characters that Unicode calls default-ignorable
//! (zero-width, bidirectional, tag characters, variation selectors), and its other format
//! characters. Line breaks and tabs become spaces, so that words stay apart.

use serde_json::Value;

/// Whether a text of JSON surely has nothing to clean: its characters are plain, and none is escaped.
pub(crate) fn is_plain(json: &str) -> bool {
    json.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\')
}

/// Cleans every text in a value, the keys of objects included.
pub(crate) fn value(any: &mut Value) {
    match any {
        Value::String(string) => text(string),
        Value::Array(values) => values.iter_mut().for_each(value),
        Value::Object(fields) => {
            fields.values_mut().for_each(value);
            if fields.keys().any(|key| has_hidden(key)) {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(mut key, value)| {
                        text(&mut key);
                        (key, value)
                    })
                    .collect();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text's beginning and end, cleaned: enough of a long one to recognise it.
pub(crate) fn excerpt(long: &str) -> String {
    const HEAD: usize = 200;
    const TAIL: usize = 100;
    let length = long.chars().count();
    let mut short = if length <= HEAD + TAIL {
        long.to_owned()
    } else {
        let skipped = length - TAIL;
        long.chars()
            .take(HEAD)
            .chain(['…'])
            .chain(long.chars().skip(skipped))
            .collect()
    };
    text(&mut short);
    short
}

/// Cleans a text in place.
pub(crate) fn text(text: &mut String) {
    if has_hidden(text) {
        *text = text
            .chars()
            .filter_map(|character| match character {
                '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
                hidden if is_hidden(hidden) => None,
                shown => Some(shown),
            })
            .collect();
    }
}

/// Nearly every text is plain ASCII, which needs no look at its characters.
fn has_hidden(text: &str) -> bool {
    !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.contains(is_hidden)
}

/// General category Cc; general category Cf; property `Default_Ignorable_Code_Point`; the line and
/// paragraph separators (Unicode 16).
fn is_hidden(character: char) -> bool {
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
        text(&mut clean);
        clean
    }

    #[test]
    fn hidden_characters_go_and_words_stay_apart() {
        for (dirty, clean) in [
            ("nightly 🚀", "nightly 🚀"),
            ("نسخة", "نسخة"),
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
        value(&mut any);
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
        fn cleaning_leaves_nothing_hidden_and_is_done_once(any in "\\PC*|.*") {
            let once = cleaned(&any);
            prop_assert!(!once.contains(is_hidden));
            prop_assert_eq!(cleaned(&once), once);
        }
    }
}
