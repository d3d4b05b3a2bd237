//! Why a request failed.

use std::{error, fmt};

use nix::errno::Errno;
use rtnetlink::packet_core::{
    DoneMessage, ErrorMessage, NLM_F_ACK_TLVS, NLM_F_CAPPED, NetlinkBuffer, NetlinkHeader, NlasIterator,
};

/// `NLMSGERR_ATTR_MSG`: the kernel's explanation in words.
const ATTR_MSG: u16 = 1;

/// A request that was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum RequestError {
    /// The kernel refused it.
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its explanation, where it gave one (extended acknowledgement, Linux 4.12).
        text: Option<String>,
    },
    /// The answer was lost or made no sense: what the kernel did is unknown.
    Lost(String),
}

impl RequestError {
    pub(super) fn lost(why: impl Into<String>) -> Self {
        Self::Lost(why.into())
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Lost(_) => None,
        }
    }

    /// From an `NLMSG_ERROR` message; `Ok` if it is an acknowledgement.
    pub(super) fn from_answer(header: &NetlinkHeader, message: &ErrorMessage) -> Result<(), Self> {
        let Some(code) = message.code else { return Ok(()) };
        let text = if header.flags & NLM_F_ACK_TLVS == 0 {
            None
        } else {
            // The refused request stands before the attributes: its header alone, or all of it.
            let request = NetlinkBuffer::new(&message.header);
            let header_len = message.header.len().min(size_of::<[u32; 4]>());
            let skip = if header.flags & NLM_F_CAPPED == 0 && header_len == size_of::<[u32; 4]>() {
                usize::try_from(request.length())
                    .unwrap_or(usize::MAX)
                    .next_multiple_of(4)
            } else {
                header_len
            };
            explanation(message.header.get(skip..))
        };
        Err(Self::Refused {
            errno: Errno::from_raw(code.get().saturating_neg()),
            text,
        })
    }

    /// From the end of a dump; `Ok` if the dump went through.
    pub(super) fn from_done(message: &DoneMessage) -> Result<(), Self> {
        if message.code == 0 {
            return Ok(());
        }
        let errno = Errno::from_raw(message.code.saturating_neg());
        Err(Self::Refused {
            errno,
            text: explanation(Some(&message.extended_ack)),
        })
    }
}

/// The kernel's words among the attributes of an extended acknowledgement.
fn explanation(attributes: Option<&[u8]>) -> Option<String> {
    NlasIterator::new(attributes?)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == ATTR_MSG)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value())
                .trim_end_matches('\0')
                .to_owned()
        })
        .filter(|text| !text.is_empty())
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { errno, text: None } => write!(f, "{} ({errno:?})", errno.desc()),
            Self::Refused {
                errno,
                text: Some(text),
            } => {
                write!(f, "{} ({errno:?}): {}", errno.desc(), text.trim_end_matches('.'))
            }
            Self::Lost(why) => f.write_str(why),
        }
    }
}

impl error::Error for RequestError {}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use super::*;

    const WORDS: &[u8] = b"No\0";

    /// A refusal with the given bytes for the request, and the kernel's words.
    fn refusal(flags: u16, request: &[u8]) -> (NetlinkHeader, ErrorMessage) {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(-17);
        message.header = [
            request,
            &7_u16.to_ne_bytes(),
            &ATTR_MSG.to_ne_bytes(),
            WORDS,
            &[0],
        ]
        .concat();
        (header, message)
    }

    fn text(flags: u16, request: &[u8]) -> Option<String> {
        let (header, message) = refusal(flags, request);
        match RequestError::from_answer(&header, &message) {
            Err(RequestError::Refused {
                errno: Errno::EEXIST,
                text,
            }) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_are_found_behind_the_request_or_its_header() {
        let mut whole = [0; 28];
        whole[0] = 26;
        assert_eq!(text(NLM_F_ACK_TLVS, &whole).as_deref(), Some("No"));
        assert_eq!(
            text(NLM_F_ACK_TLVS | NLM_F_CAPPED, &whole[..16]).as_deref(),
            Some("No")
        );
        assert_eq!(text(0, &whole), None);
    }

    #[test]
    fn lengths_that_make_no_sense_give_no_words() {
        assert_eq!(text(NLM_F_ACK_TLVS, &[255; 16]), None);
        assert_eq!(text(NLM_F_ACK_TLVS, &[]), None);
    }

    #[test]
    fn acknowledgement_is_no_error() {
        let answer = RequestError::from_answer(&NetlinkHeader::default(), &ErrorMessage::default());
        assert_eq!(answer, Ok(()));
    }
}
