//! A payload in which every block says where it belongs.

/// Bytes in a block.
pub(super) const BLOCK: usize = 64 * 1024;

/// The blocks of a payload, one after the other.
pub(super) struct Blocks {
    template: Vec<u8>,
}

impl Blocks {
    pub(super) fn new() -> Self {
        // xorshift64*: incompressible enough, and the same on both ends.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = (0..BLOCK / 8).flat_map(|_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
        });
        Self {
            template: words.collect(),
        }
    }

    /// Block number `index`: its number in the first eight bytes, then what every block has.
    pub(super) fn block(&mut self, index: u64) -> &[u8] {
        if let Some(number) = self.template.first_chunk_mut() {
            *number = index.to_be_bytes();
        }
        &self.template
    }
}
