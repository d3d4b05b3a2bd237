//! The events of a watch, read while they arrive: lines of JSON, or frames of protocol buffers.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::envelope::{StatusText, open, status_message};
use super::fields::Fields;
use super::node::node;
use super::{Encoding, MAX_OBJECT, Malformed};
use crate::kube::record::NodeRecord;

/// One event of a watch.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::kube) enum WatchItem {
    /// A Node is new, or has changed.
    Applied(NodeRecord),
    /// A Node is gone; this was its last state.
    Deleted(NodeRecord),
    /// Nothing happened up to this resource version.
    Bookmark(String),
    /// The watch cannot go on.
    Error(StatusText),
}

/// A watch that is being read.
pub(in crate::kube) struct WatchReader {
    encoding: Encoding,
    buffer: Vec<u8>,
    used: usize,
    /// Bytes after `used` without the end of a line in them.
    searched: usize,
}

impl WatchReader {
    pub(in crate::kube) const fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            buffer: Vec::new(),
            used: 0,
            searched: 0,
        }
    }

    /// Takes the next bytes of the answer. [`WatchReader::next`] must have said `None` before, or this grows.
    pub(in crate::kube) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event that is complete.
    pub(in crate::kube) fn next(&mut self) -> Result<Option<WatchItem>, Malformed> {
        loop {
            let rest = self.buffer.get(self.used..).unwrap_or_default();
            let frame = match self.encoding {
                Encoding::Protobuf => frame(rest)?,
                Encoding::Json => line(rest, &mut self.searched)?,
            };
            let Some((frame, used)) = frame else {
                return Ok(None);
            };
            let item = match self.encoding {
                Encoding::Protobuf => protobuf_event(frame),
                Encoding::Json => json_event(frame),
            };
            self.used += used;
            self.searched = 0;
            if let Some(item) = item? {
                return Ok(Some(item));
            }
        }
    }
}

/// A length in four bytes, big-endian, and so many bytes.
fn frame(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed::TooLarge)?;
    if length > MAX_OBJECT {
        return Err(Malformed::TooLarge);
    }
    Ok(rest.get(..length).map(|frame| (frame, 4 + length)))
}

fn line<'a>(bytes: &'a [u8], searched: &mut usize) -> Result<Option<(&'a [u8], usize)>, Malformed> {
    let new = bytes.get(*searched..).unwrap_or_default();
    let Some(found) = new.iter().position(|byte| *byte == b'\n') else {
        *searched = bytes.len();
        if bytes.len() > MAX_OBJECT {
            return Err(Malformed::TooLarge);
        }
        return Ok(None);
    };
    let end = *searched + found;
    Ok(bytes.get(..end).map(|line| (line, end + 1)))
}

/// `metav1.WatchEvent`; its object is in an envelope again.
fn protobuf_event(message: &[u8]) -> Result<Option<WatchItem>, Malformed> {
    let (mut kind, mut object): (&str, &[u8]) = ("", &[]);
    for field in Fields::new(message) {
        let (number, value) = field?;
        match number {
            1 => kind = value.text()?,
            2 => {
                for field in Fields::new(value.bytes()?) {
                    if let (1, value) = field? {
                        object = value.bytes()?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(match kind {
        "ADDED" | "MODIFIED" => Some(WatchItem::Applied(node(open(object)?)?)),
        "DELETED" => Some(WatchItem::Deleted(node(open(object)?)?)),
        "BOOKMARK" => Some(bookmark(&node(open(object)?)?)),
        "ERROR" => Some(WatchItem::Error(status_message(open(object)?)?)),
        _ => None,
    })
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

fn json_event(line: &[u8]) -> Result<Option<WatchItem>, Malformed> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let Event { kind, object } = serde_json::from_slice(line)?;
    let node = || serde_json::from_str::<NodeRecord>(object.get());
    Ok(match &*kind {
        "ADDED" | "MODIFIED" => Some(WatchItem::Applied(node()?)),
        "DELETED" => Some(WatchItem::Deleted(node()?)),
        "BOOKMARK" => Some(bookmark(&node()?)),
        "ERROR" => Some(WatchItem::Error(serde_json::from_str(object.get())?)),
        _ => None,
    })
}

fn bookmark(node: &NodeRecord) -> WatchItem {
    WatchItem::Bookmark(node.resource_version().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{MAGIC, RAW, TYPE_META};
    use super::super::fields::encode;
    use super::super::node::example;
    use super::*;

    fn protobuf(kind: &str, object: &[u8]) -> Vec<u8> {
        let object = [
            MAGIC.to_vec(),
            encode::bytes(TYPE_META, &[]),
            encode::bytes(RAW, object),
        ]
        .concat();
        let event = [
            encode::text(1, kind),
            encode::bytes(2, &encode::bytes(1, &object)),
        ]
        .concat();
        let length = u32::try_from(event.len()).unwrap().to_be_bytes();
        [length.to_vec(), event].concat()
    }

    fn read(encoding: Encoding, bytes: &[u8], chunk: usize) -> Result<Vec<WatchItem>, Malformed> {
        let mut reader = WatchReader::new(encoding);
        let mut items = Vec::new();
        for piece in bytes.chunks(chunk) {
            reader.feed(piece);
            while let Some(item) = reader.next()? {
                items.push(item);
            }
        }
        Ok(items)
    }

    fn expected() -> Vec<WatchItem> {
        let node = |name| node(&example::protobuf(name)).unwrap();
        vec![
            WatchItem::Applied(node("a")),
            WatchItem::Applied(node("b")),
            WatchItem::Deleted(node("c")),
            WatchItem::Bookmark("99".into()),
            WatchItem::Error(StatusText {
                code: 410,
                message: "too old".into(),
                reason: "Expired".into(),
            }),
        ]
    }

    #[test]
    fn events_are_the_same_in_both_encodings_however_they_arrive() {
        let bookmark = encode::bytes(1, &encode::text(6, "99"));
        let status = [
            encode::text(3, "too old"),
            encode::text(4, "Expired"),
            encode::number(6, 410),
        ]
        .concat();
        let frames = [
            protobuf("ADDED", &example::protobuf("a")),
            protobuf("MODIFIED", &example::protobuf("b")),
            protobuf("FUTURE", &[]),
            protobuf("DELETED", &example::protobuf("c")),
            protobuf("BOOKMARK", &bookmark),
            protobuf("ERROR", &status),
        ]
        .concat();
        let line = |kind: &str, object: &str| format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        let lines = [
            line("ADDED", &example::json("a")),
            line("MODIFIED", &example::json("b")),
            "\n".to_owned(),
            line("FUTURE", "{}"),
            line("DELETED", &example::json("c")),
            line(
                "BOOKMARK",
                r#"{"kind":"Node","metadata":{"resourceVersion":"99","creationTimestamp":null},"spec":{},"status":{"daemonEndpoints":{}}}"#,
            ),
            line(
                "ERROR",
                r#"{"kind":"Status","message":"too old","reason":"Expired","code":410}"#,
            ),
        ]
        .concat();
        for (encoding, bytes) in [
            (Encoding::Protobuf, frames.as_slice()),
            (Encoding::Json, lines.as_bytes()),
        ] {
            for chunk in (1..64).chain([bytes.len()]) {
                let items = read(encoding, bytes, chunk).unwrap();
                assert_eq!(items, expected(), "{encoding:?} in pieces of {chunk}");
            }
        }
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        assert!(read(Encoding::Json, b"nonsense\n", 3).is_err());
        assert!(read(Encoding::Protobuf, &[0xff; 8], 3).is_err(), "too large");
        assert!(read(Encoding::Protobuf, &[0, 0, 0, 2, 0xff, 0xff], 3).is_err());
        let bare = protobuf("ADDED", &[1, 2, 3]);
        assert!(read(Encoding::Protobuf, &bare, 100).is_err());
    }
}
