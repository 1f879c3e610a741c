//! What JSON becomes in memory, told before it is read into a tree: a body of 128 KiB can become
//! 40 MiB.

/// At least as many values as the text has, keys included: each but the first follows one of these
/// characters. Text that is no JSON has none to speak of.
pub(crate) fn values(text: &[u8]) -> usize {
    let mut values = 1;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' | b',' | b':' => values += 1,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => _ = bytes.next(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    values
}

/// Bytes of memory that a text with so many values takes, together with what is read from it.
pub(crate) fn weight(bytes: usize, values: usize) -> usize {
    /// The text, its parts while it is received, and the strings of two trees.
    const COPIES: usize = 4;
    /// An object of one field is the dearest: its node alone has room for eleven.
    const VALUE: usize = 700;
    bytes * COPIES + values * VALUE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn what_is_in_a_string_is_no_value() {
        for (text, expected) in [
            ("", 1),
            ("1", 1),
            (r#""a,b:[{""#, 1),
            (r#""\",[" "#, 1),
            (r#""\\",[]"#, 3),
            (r#"{"a":1}"#, 3),
            (r#"[{"":0},{"":0}]"#, 7),
            (r#""unfinished, [ \"#, 1),
        ] {
            assert_eq!(values(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_dearest_body_costs_at_most_8_mib() {
        let limits = Limits::default();
        assert!(weight(limits.body, limits.values) <= 8 << 20);
    }

    fn count(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(count).sum::<usize>(),
            Value::Object(fields) => {
                1 + fields.values().map(|value| 1 + count(value)).sum::<usize>()
            }
            _ => 1,
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((".*", inner), 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_is_missed(value in any_json()) {
            let text = serde_json::to_vec(&value).unwrap();
            prop_assert!(values(&text) >= count(&value));
        }
    }
}
