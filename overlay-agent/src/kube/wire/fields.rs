//! The fields of a protocol buffers message (protobuf.dev/programming-guides/encoding).

use super::Malformed;

/// The value of one field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2: text, bytes, or a message.
    Bytes(&'a [u8]),
    /// Wire types 1 and 5, which Nodes do not have.
    Fixed,
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(Malformed::Protobuf("a number where bytes are expected")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Protobuf("a text that is not UTF-8"))
    }

    pub(super) fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Bytes(_) | Self::Fixed => Err(Malformed::Protobuf("no number where one is expected")),
        }
    }
}

/// What stands at the beginning of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    /// A field without a length: it ends after so many bytes, tag included.
    Scalar {
        /// Bytes from the tag to the end of the value.
        end: usize,
    },
    /// A field with a length.
    Delimited {
        /// Number of the field.
        number: u64,
        /// Bytes of tag and length.
        header: usize,
        /// Bytes of the value.
        length: usize,
    },
}

/// Reads a base-128 number and how many bytes it has; `None` when it is not complete.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 10 {
        Ok(None)
    } else {
        Err(Malformed::Protobuf("a number of more than 64 bits"))
    }
}

/// Reads a tag, and the length after it; `None` when that is not complete.
pub(super) fn tag(bytes: &[u8]) -> Result<Option<Tag>, Malformed> {
    let Some((key, after_key)) = varint(bytes)? else {
        return Ok(None);
    };
    let rest = bytes.get(after_key..).unwrap_or_default();
    Ok(match key & 7 {
        0 => varint(rest)?.map(|(_, length)| Tag::Scalar {
            end: after_key + length,
        }),
        1 => Some(Tag::Scalar { end: after_key + 8 }),
        2 => match varint(rest)? {
            None => None,
            Some((length, size)) => Some(Tag::Delimited {
                number: key >> 3,
                header: after_key + size,
                length: usize::try_from(length).map_err(|_| Malformed::TooLarge)?,
            }),
        },
        5 => Some(Tag::Scalar { end: after_key + 4 }),
        _ => return Err(Malformed::Protobuf("an unknown wire type")),
    })
}

/// The fields of a complete message.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) const fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let (key, after_key) = varint(self.0)?.ok_or(Malformed::Truncated)?;
        let rest = self.0.get(after_key..).unwrap_or_default();
        let (value, length) = match key & 7 {
            0 => {
                let (number, length) = varint(rest)?.ok_or(Malformed::Truncated)?;
                (Value::Varint(number), length)
            }
            1 => (Value::Fixed, 8),
            2 => {
                let (length, size) = varint(rest)?.ok_or(Malformed::Truncated)?;
                let end = usize::try_from(length)
                    .ok()
                    .and_then(|length| size.checked_add(length))
                    .ok_or(Malformed::Truncated)?;
                let bytes = rest.get(size..end).ok_or(Malformed::Truncated)?;
                (Value::Bytes(bytes), end)
            }
            5 => (Value::Fixed, 4),
            _ => return Err(Malformed::Protobuf("an unknown wire type")),
        };
        self.0 = rest.get(length..).ok_or(Malformed::Truncated)?;
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
pub(super) mod encode {
    //! The opposite, for tests.

    pub(in super::super) fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(number & 0x7f).unwrap();
            number >>= 7;
            if number == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    }

    pub(in super::super) fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    pub(in super::super) fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
        let length = varint(u64::try_from(value.len()).unwrap());
        [varint(field << 3 | 2), length, value.to_vec()].concat()
    }

    pub(in super::super) fn text(field: u64, value: &str) -> Vec<u8> {
        bytes(field, value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order() {
        let message = [
            encode::number(1, 300),
            encode::text(2, "ab"),
            vec![3 << 3 | 5, 1, 2, 3, 4],
        ]
        .concat();
        let fields: Vec<_> = Fields::new(&message).map(Result::unwrap).collect();
        assert_eq!(
            fields,
            [
                (1, Value::Varint(300)),
                (2, Value::Bytes(b"ab")),
                (3, Value::Fixed)
            ]
        );
    }

    #[test]
    fn whatever_is_cut_off_is_an_error_and_the_end() {
        let message = [encode::number(1, 300), encode::text(2, "abc")].concat();
        for end in 1..message.len() {
            if end == 3 {
                continue;
            }
            let fields: Vec<_> = Fields::new(&message[..end]).collect();
            assert!(fields.last().unwrap().is_err(), "{end}");
            assert!(fields.len() <= 2);
        }
        let eleven = [0x80; 11];
        assert!(Fields::new(&eleven).next().unwrap().is_err());
        let group = [1 << 3 | 3];
        assert!(Fields::new(&group).next().unwrap().is_err());
        let endless = [vec![1 << 3 | 2], encode::varint(u64::MAX)].concat();
        assert!(Fields::new(&endless).next().unwrap().is_err());
    }

    #[test]
    fn a_tag_waits_for_its_length() {
        let field = encode::bytes(2, &[0; 300]);
        assert_eq!(tag(&field[..1]).unwrap(), None);
        assert_eq!(tag(&field[..2]).unwrap(), None);
        let complete = Tag::Delimited {
            number: 2,
            header: 3,
            length: 300,
        };
        assert_eq!(tag(&field[..3]).unwrap(), Some(complete));
        let scalar = encode::number(1, 300);
        assert_eq!(tag(&scalar[..2]).unwrap(), None);
        assert_eq!(tag(&scalar).unwrap(), Some(Tag::Scalar { end: 3 }));
    }
}
