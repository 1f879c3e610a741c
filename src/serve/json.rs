//! What JSON becomes in memory, told before it is read into a tree: a body of 128 KiB can become
//! 40 MiB. And objects that come as text.

/// How large a text is, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    bytes: usize,
    /// At least as many values as the text has, keys included: each but the first follows one of a few
    /// characters. Text that is no JSON has none to speak of.
    pub(super) values: usize,
    /// At least as many objects as it has.
    objects: usize,
}

impl Size {
    pub(super) fn of(text: &[u8]) -> Self {
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
}

/// Counts some bytes, many at once: a sum of so few fits into a byte.
fn count(text: &[u8], is: impl Fn(u8) -> bool) -> usize {
    let sum = |few: &[u8]| few.iter().map(|byte| u8::from(is(*byte))).sum::<u8>();
    let sums = text.chunks(u8::MAX.into()).map(sum);
    sums.map(usize::from).sum()
}
