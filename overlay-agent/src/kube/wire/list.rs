//! A `NodeList`, read while it arrives.

use super::envelope::{MAGIC, RAW};
use super::fields::{Fields, Tag, tag};
use super::json::JsonList;
use super::node::node;
use super::{Encoding, MAX_OBJECT, Malformed};
use crate::kube::record::NodeRecord;

/// What a list says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ListMeta {
    /// `resourceVersion`.
    pub(super) resource_version: String,
    /// `continue`.
    pub(super) next: String,
}

impl ListMeta {
    pub(super) fn end(self) -> Result<ListEnd, Malformed> {
        if self.resource_version.is_empty() {
            return Err(Malformed::List("it has no resourceVersion"));
        }
        Ok(ListEnd {
            resource_version: self.resource_version,
            next: Some(self.next).filter(|next| !next.is_empty()),
        })
    }
}

/// What is known at the end of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::kube) struct ListEnd {
    /// From where to watch.
    pub(in crate::kube) resource_version: String,
    /// The token of the next page, if there is one.
    pub(in crate::kube) next: Option<String>,
}

/// A list that is being read.
pub(in crate::kube) struct ListReader {
    buffer: Vec<u8>,
    used: usize,
    format: Format,
}

enum Format {
    Protobuf(ProtobufList),
    Json(JsonList),
}

impl ListReader {
    pub(in crate::kube) fn new(encoding: Encoding) -> Self {
        Self {
            buffer: Vec::new(),
            used: 0,
            format: match encoding {
                Encoding::Protobuf => Format::Protobuf(ProtobufList::default()),
                Encoding::Json => Format::Json(JsonList::default()),
            },
        }
    }

    /// Takes the next bytes of the answer. [`ListReader::next`] must have said `None` before, or this grows.
    pub(in crate::kube) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next Node that is complete.
    pub(in crate::kube) fn next(&mut self) -> Result<Option<NodeRecord>, Malformed> {
        loop {
            let rest = self.buffer.get(self.used..).unwrap_or_default();
            let (used, record) = match &mut self.format {
                Format::Protobuf(list) => list.step(rest)?,
                Format::Json(list) => list.step(rest)?,
            };
            self.used += used;
            if record.is_some() || used == 0 {
                return Ok(record);
            }
        }
    }

    /// After the last byte.
    pub(in crate::kube) fn end(self) -> Result<ListEnd, Malformed> {
        if self.used < self.buffer.len() {
            return Err(Malformed::Truncated);
        }
        match self.format {
            Format::Protobuf(list) => list.end(),
            Format::Json(list) => list.end(),
        }
    }
}

/// A `NodeList` in protocol buffers that is being read.
#[derive(Default)]
struct ProtobufList {
    magic: bool,
    /// Bytes that are left of the list itself, once it has begun.
    left: Option<usize>,
    meta: ListMeta,
}

impl ProtobufList {
    /// As [`JsonList::step`].
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<NodeRecord>), Malformed> {
        if !self.magic {
            if bytes.len() < MAGIC.len() {
                return Ok((0, None));
            }
            if !bytes.starts_with(MAGIC) {
                return Err(Malformed::Protobuf("it does not begin with k8s and a zero"));
            }
            self.magic = true;
            return Ok((MAGIC.len(), None));
        }
        let Some(tag) = tag(bytes)? else {
            return Ok((0, None));
        };
        let (number, header, length) = match tag {
            Tag::Scalar { end } if end > bytes.len() => return Ok((0, None)),
            Tag::Scalar { end } => return self.used(end).map(|used| (used, None)),
            Tag::Delimited {
                number,
                header,
                length,
            } => (number, header, length),
        };
        let in_list = self.left.is_some_and(|left| left > 0);
        if !in_list && number == RAW && self.left.is_none() {
            self.left = Some(length);
            return Ok((header, None));
        }
        if length > MAX_OBJECT {
            return Err(Malformed::TooLarge);
        }
        let end = header + length;
        let Some(value) = bytes.get(header..end) else {
            return Ok((0, None));
        };
        let record = match number {
            1 if in_list => {
                self.meta = list_meta(value)?;
                None
            }
            2 if in_list => Some(node(value)?),
            _ => None,
        };
        self.used(end).map(|used| (used, record))
    }

    /// Takes note that `bytes` were used, which may belong to the list.
    fn used(&mut self, bytes: usize) -> Result<usize, Malformed> {
        if let Some(left) = self.left.filter(|left| *left > 0) {
            let left = left.checked_sub(bytes);
            self.left = Some(left.ok_or(Malformed::Protobuf("a field is longer than its message"))?);
        }
        Ok(bytes)
    }

    fn end(self) -> Result<ListEnd, Malformed> {
        if self.left == Some(0) {
            self.meta.end()
        } else {
            Err(Malformed::Truncated)
        }
    }
}

/// `metav1.ListMeta`.
fn list_meta(message: &[u8]) -> Result<ListMeta, Malformed> {
    let mut meta = ListMeta::default();
    for field in Fields::new(message) {
        let (number, value) = field?;
        match number {
            2 => value.text()?.clone_into(&mut meta.resource_version),
            3 => value.text()?.clone_into(&mut meta.next),
            _ => {}
        }
    }
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::super::envelope::TYPE_META;
    use super::super::fields::encode;
    use super::super::node::example;
    use super::*;

    fn protobuf(nodes: usize, next: &str) -> Vec<u8> {
        let meta = [
            encode::text(1, ""),
            encode::text(2, "4711"),
            encode::text(3, next),
        ]
        .concat();
        let mut list = encode::bytes(1, &meta);
        for index in 0..nodes {
            list.extend(encode::bytes(2, &example::protobuf(&format!("n{index}"))));
        }
        let kind = [encode::text(1, "v1"), encode::text(2, "NodeList")].concat();
        [
            MAGIC.to_vec(),
            encode::bytes(TYPE_META, &kind),
            encode::bytes(RAW, &list),
            encode::text(3, ""),
            encode::text(4, ""),
        ]
        .concat()
    }

    fn json(nodes: usize, next: &str) -> Vec<u8> {
        let items: Vec<_> = (0..nodes)
            .map(|index| example::json(&format!("n{index}")))
            .collect();
        let text = format!(
            "{{\"kind\":\"NodeList\",\"apiVersion\":\"v1\",\n \"metadata\" : {{\"resourceVersion\":\"4711\",\
             \"continue\":\"{next}\"}},\"items\":[{}],\"more\":12}}\n",
            items.join(" , ")
        );
        text.into_bytes()
    }

    fn read(encoding: Encoding, bytes: &[u8], chunk: usize) -> Result<(Vec<String>, ListEnd), Malformed> {
        let mut reader = ListReader::new(encoding);
        let mut names = Vec::new();
        for piece in bytes.chunks(chunk) {
            reader.feed(piece);
            while let Some(record) = reader.next()? {
                names.push(record.name().to_owned());
            }
        }
        Ok((names, reader.end()?))
    }

    #[test]
    fn a_list_is_the_same_however_it_arrives() {
        let end = |next: Option<&str>| ListEnd {
            resource_version: "4711".into(),
            next: next.map(Into::into),
        };
        for (nodes, next) in [(0, ""), (1, ""), (3, "token")] {
            let names: Vec<_> = (0..nodes).map(|index| format!("n{index}")).collect();
            let expected = (names, end(Some(next).filter(|next| !next.is_empty())));
            for (encoding, bytes) in [
                (Encoding::Protobuf, protobuf(nodes, next)),
                (Encoding::Json, json(nodes, next)),
            ] {
                for chunk in (1..64).chain([bytes.len()]) {
                    let got = read(encoding, &bytes, chunk).unwrap();
                    assert_eq!(got, expected, "{encoding:?} in pieces of {chunk}");
                }
            }
        }
    }

    #[test]
    fn a_list_that_is_cut_off_is_no_list() {
        for (encoding, bytes, after) in [
            // After the list itself two empty fields follow.
            (Encoding::Protobuf, protobuf(2, ""), 4),
            (Encoding::Json, json(2, ""), 1),
        ] {
            for length in 0..bytes.len() - after {
                let result = read(encoding, &bytes[..length], 97);
                assert!(result.is_err(), "{encoding:?} {length}: {result:?}");
            }
        }
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for text in ["[]", "null", "{}", "{\"items\":[]}", "{\"items\":null,,", "{}{}"] {
            let result = read(Encoding::Json, text.as_bytes(), 3);
            assert!(result.is_err(), "{text}: {result:?}");
        }
        let null = br#"{"metadata":{"resourceVersion":"1"},"items":null}"#;
        assert!(read(Encoding::Json, null, 5).unwrap().0.is_empty());
        for bytes in [&b"k8s!"[..], b"{\"kind\":1}", b"k8s\0\x12\x05abcde"] {
            assert!(read(Encoding::Protobuf, bytes, 3).is_err());
        }
    }
}
