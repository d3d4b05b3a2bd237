//! What the sender's kernel has counted of one connection.

use anyhow::{Context, Result};

use super::TcpFlow;
use crate::space::Space;

/// Segments of a connection that the sender sent more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentAgain {
    /// How many times it did (`tcpi_total_retrans`).
    pub segments: u64,
    /// How many of them the receiver had already (`tcpi_dsack_dups`; RFC 2883): nothing was lost. On a busy machine answers
    /// are late, and senders probe (RFC 8985, tail loss probe).
    pub in_vain: u64,
}

impl SentAgain {
    /// How many segments were lost. Of one that is under way for the second time it cannot be told yet.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.segments.saturating_sub(self.in_vain)
    }
}

impl TcpFlow {
    /// What was sent again so far. `client` is the namespace that the stream is sent from.
    ///
    /// # Errors
    ///
    /// When the kernel no longer knows the connection.
    pub fn sent_again(&self, client: &Space) -> Result<SentAgain> {
        let text = client.run(&format!("ss -tinH src {}", self.client))?;
        parse(&text).with_context(|| format!("ss of {} shows of {}: {text:?}", client.label(), self.client))
    }
}

/// From what `ss -ti` prints of a single connection. It leaves out what is 0.
fn parse(text: &str) -> Result<SentAgain> {
    let words = || text.split_whitespace();
    words()
        .find(|word| word.starts_with("segs_out:"))
        .context("no connection that has sent anything")?;
    let number = |name: &str| -> Result<u64> {
        let value = words().find_map(|word| word.strip_prefix(name));
        // Of pairs ("now/in all") the second one.
        let value = value.map_or("0", |value| value.rsplit('/').next().unwrap_or(value));
        value.parse().with_context(|| format!("{name}{value}"))
    };
    Ok(SentAgain {
        segments: number("retrans:")?,
        in_vain: number("dsack_dups:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "ESTAB 0 5 127.0.0.1:37566 127.0.0.1:7777\n\t cubic wscale:7,7 rto:204 rtt:0.029/0.017 mss:32768 \
                         cwnd:10 bytes_sent:5 bytes_acked:6 segs_out:3 segs_in:1 data_segs_out:1 minrtt:0.02\n";

    #[test]
    fn what_ss_leaves_out_is_none() {
        let none = SentAgain {
            segments: 0,
            in_vain: 0,
        };
        assert_eq!(parse(CLEAN).unwrap(), none);
        let busy = CLEAN.replace("segs_out", "bytes_retrans:2896 retrans:1/7 dsack_dups:5 segs_out");
        let found = parse(&busy).unwrap();
        assert_eq!((found.segments, found.in_vain, found.lost()), (7, 5, 2));
    }

    #[test]
    fn no_connection_is_an_error() {
        parse("").unwrap_err();
        parse("ESTAB 0 0 127.0.0.1:37566 127.0.0.1:7777").unwrap_err();
    }
}
