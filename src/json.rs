//! What JSON becomes in memory, told before it is read into a tree: a body of 128 KiB can become
//! 40 MiB. And objects that come as text.

use serde_json::Value;

/// Takes an object out of the text that some hosts send it as.
pub(crate) fn unpack(value: &mut Value) {
    /// Nobody has reserved memory for them.
    const FEW: usize = 64;

    let text = value.as_str().unwrap_or_default();
    if Size::of(text.as_bytes()).values <= FEW
        && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
    {
        *value = object;
    }
}

/// How large a text is, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    bytes: usize,
    /// At least as many values as the text has, keys included: each but the first follows one of a few
    /// characters. Text that is no JSON has none to speak of.
    pub(crate) values: usize,
    /// At least as many objects as it has.
    objects: usize,
}

impl Size {
    pub(crate) fn of(text: &[u8]) -> Self {
        /// Where a rough count finds no more, nobody minds an exact one.
        const FEW: usize = 2048;

        let rough = Self {
            bytes: text.len(),
            values: 1 + count(text, |byte| matches!(byte, b'{' | b'[' | b',' | b':')),
            objects: count(text, |byte| byte == b'{'),
        };
        if rough.values <= FEW {
            rough
        } else {
            Self::exactly(text)
        }
    }

    /// Without what is in strings.
    fn exactly(text: &[u8]) -> Self {
        let (mut values, mut objects) = (1, 0);
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'{' => {
                    values += 1;
                    objects += 1;
                }
                b'[' | b',' | b':' => values += 1,
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
        Self {
            bytes: text.len(),
            values,
            objects,
        }
    }

    /// Bytes of memory that the text takes, together with what is read from it and written again.
    pub(crate) fn in_memory(self) -> usize {
        /// The text, its parts while it is received, and the strings of two trees.
        const COPIES: usize = 4;
        /// A key or a value beside others, in a node of a map that is half full.
        const VALUE: usize = 96;
        /// The first node of a map has room for eleven.
        const OBJECT: usize = 640;
        self.bytes * COPIES + self.values * VALUE + self.objects * OBJECT
    }
}

/// Counts some bytes, many at once: a sum of so few fits into a byte.
fn count(text: &[u8], is: impl Fn(u8) -> bool) -> usize {
    let sum = |few: &[u8]| few.iter().map(|byte| u8::from(is(*byte))).sum::<u8>();
    let sums = text.chunks(u8::MAX.into()).map(sum);
    sums.map(usize::from).sum()
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
            assert_eq!(Size::exactly(text.as_bytes()).values, expected, "{text}");
        }
    }

    #[test]
    fn the_dearest_body_costs_at_most_8_mib() {
        let limits = Limits::default();
        let dearest = Size {
            bytes: limits.body,
            values: limits.values,
            objects: limits.values,
        };
        assert!(dearest.in_memory() <= 8 << 20);
    }

    fn values_in(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(values_in).sum::<usize>(),
            Value::Object(fields) => {
                1 + fields
                    .values()
                    .map(|value| 1 + values_in(value))
                    .sum::<usize>()
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
            let (rough, exact) = (Size::of(&text), Size::exactly(&text));
            prop_assert!(exact.values >= values_in(&value));
            prop_assert!(rough.values >= exact.values && rough.objects >= exact.objects);
        }
    }
}
