//! What is around every object: `k8s\0` and a `runtime.Unknown` with its type and its bytes; and the `Status` that is sent
//! instead of an object.

use serde::Deserialize;

use super::fields::Fields;
use super::{Encoding, Malformed};

/// The first bytes of every object in protocol buffers.
pub(super) const MAGIC: &[u8] = b"k8s\0";

/// Field of `runtime.Unknown`: the type.
#[cfg(test)]
pub(super) const TYPE_META: u64 = 1;
/// Field of `runtime.Unknown`: the object.
pub(super) const RAW: u64 = 2;

/// The bytes of an object, out of its envelope.
pub(super) fn open(object: &[u8]) -> Result<&[u8], Malformed> {
    let unknown = object
        .strip_prefix(MAGIC)
        .ok_or(Malformed::Protobuf("it does not begin with k8s and a zero"))?;
    let mut raw: &[u8] = &[];
    for field in Fields::new(unknown) {
        let (number, value) = field?;
        if number == RAW {
            raw = value.bytes()?;
        }
    }
    Ok(raw)
}

/// `metav1.Status`, as far as it is of use.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub(in crate::kube) struct StatusText {
    /// The HTTP status.
    #[serde(default)]
    pub(in crate::kube) code: u16,
    /// In words.
    #[serde(default)]
    pub(in crate::kube) message: String,
    /// As a constant: `Expired`.
    #[serde(default)]
    pub(in crate::kube) reason: String,
}

/// Reads a `Status`, out of its envelope.
pub(super) fn status_message(status: &[u8]) -> Result<StatusText, Malformed> {
    let mut text = StatusText::default();
    for field in Fields::new(status) {
        let (number, value) = field?;
        match number {
            3 => value.text()?.clone_into(&mut text.message),
            4 => value.text()?.clone_into(&mut text.reason),
            6 => text.code = u16::try_from(value.number()?).unwrap_or_default(),
            _ => {}
        }
    }
    Ok(text)
}

/// Reads the `Status` of an answer. What is not one is taken for the message, as from a proxy in between.
pub(in crate::kube) fn status(encoding: Encoding, body: &[u8]) -> StatusText {
    let parsed = match encoding {
        Encoding::Protobuf => open(body).and_then(status_message).ok(),
        Encoding::Json => serde_json::from_slice(body).ok(),
    };
    parsed.unwrap_or_else(|| StatusText {
        message: String::from_utf8_lossy(body).trim().chars().take(200).collect(),
        ..StatusText::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::fields::encode;
    use super::*;

    #[test]
    fn a_status_is_read_in_both_encodings() {
        let expected = StatusText {
            code: 410,
            message: "too old".into(),
            reason: "Expired".into(),
        };
        let json = br#"{"kind":"Status","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}"#;
        assert_eq!(status(Encoding::Json, json), expected);
        let message = [
            encode::bytes(1, &[]),
            encode::text(2, "Failure"),
            encode::text(3, "too old"),
            encode::text(4, "Expired"),
            encode::number(6, 410),
        ]
        .concat();
        let object = [
            MAGIC.to_vec(),
            encode::bytes(TYPE_META, &[]),
            encode::bytes(RAW, &message),
        ]
        .concat();
        assert_eq!(status(Encoding::Protobuf, &object), expected);
    }

    #[test]
    fn what_a_proxy_says_is_the_message() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let text = status(encoding, b"<html>bad gateway</html>\n");
            assert_eq!(
                (text.code, text.message.as_str()),
                (0, "<html>bad gateway</html>")
            );
        }
    }
}
