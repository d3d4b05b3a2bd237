//! Payloads that say which flow and which position in it they belong to, cheap to make and to check.

use std::sync::OnceLock;

use anyhow::Result;

use crate::cpus;

/// The longest payload in bytes.
pub(crate) const LONGEST: usize = 64 * 1024;
/// Different beginnings of a payload; a prime, so that neighbouring numbers of different flows rarely meet.
const BEGINNINGS: u64 = 32_749;

/// `length` bytes that payload `number` of the flow `tag` consists of.
pub(crate) fn content(tag: u64, number: u64, length: usize) -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        // xorshift64*
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = (0..LONGEST / 4).flat_map(|_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
        });
        words.collect()
    });
    let beginning = tag.wrapping_mul(7919).wrapping_add(number) % BEGINNINGS;
    let beginning = usize::try_from(beginning).unwrap_or_default();
    noise.get(beginning..beginning + length).unwrap_or_default()
}

/// Keeps the calling thread on `cpu`, if there is one: packets of one flow from several CPUs overtake each other on
/// veth devices, whatever the nodes do.
pub(crate) fn pin(cpu: Option<usize>) -> Result<()> {
    cpu.map_or(Ok(()), cpus::pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_neighbours_differ_and_are_complete() {
        for number in 0..100 {
            assert_eq!(content(1, number, LONGEST).len(), LONGEST);
            assert_ne!(content(1, number, 32), content(1, number + 1, 32));
            assert_ne!(content(1, number, 32), content(2, number, 32));
        }
        assert_eq!(content(3, 4, 100), content(3, 4, 200).get(..100).unwrap());
    }
}
