//! What stands in a directory: blocks of entries, sorted by name, each block with its names
//! behind its entries.

use super::format::{BLOCK_BYTES, DIRENT_BYTES};
use super::tree::{NodeId, Tree};

/// A directory's entries, `.` and `..` among them.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    entries: Vec<(&'a [u8], NodeId)>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(own: NodeId, parent: NodeId, children: &[(&'a [u8], NodeId)]) -> Self {
        let mut entries = Vec::with_capacity(children.len() + 2);
        entries.push((&b"."[..], own));
        entries.push((&b".."[..], parent));
        entries.extend_from_slice(children);
        // Few names stand before the dots.
        entries.sort();
        Self { entries }
    }

    /// How long the directory is: whole blocks, and what the last holds.
    pub(super) fn size(&self) -> usize {
        let (mut blocks, mut last) = (0, 0);
        for block in self.blocks() {
            blocks += 1;
            last = block.iter().map(|(name, _)| entry_bytes(name)).sum();
        }
        blocks_before_last(blocks) * BLOCK_BYTES + last
    }

    /// The directory's bytes, added to `out`; the last block is not filled up.
    pub(super) fn encode(
        &self,
        tree: &Tree<'_>,
        number: impl Fn(NodeId) -> u64,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        for block in self.blocks() {
            let rest = (out.len() - start) % BLOCK_BYTES;
            if rest > 0 {
                out.resize(out.len() + BLOCK_BYTES - rest, 0);
            }
            let mut name_at = block.len() * DIRENT_BYTES;
            for (name, node) in block {
                out.extend(number(*node).to_le_bytes());
                // At most a block.
                out.extend(u16::try_from(name_at).unwrap_or(0).to_le_bytes());
                out.extend([tree.node(*node).kind.code(), 0]);
                name_at += name.len();
            }
            for (name, _) in block {
                out.extend_from_slice(name);
            }
        }
    }

    fn blocks(&self) -> impl Iterator<Item = &[(&'a [u8], NodeId)]> {
        let mut left = &self.entries[..];
        std::iter::from_fn(move || {
            let mut used = 0;
            let fits = |(name, _): &&(&[u8], NodeId)| {
                used += entry_bytes(name);
                used <= BLOCK_BYTES
            };
            let count = left.iter().take_while(fits).count();
            let (block, rest) = left.split_at(count);
            left = rest;
            (!block.is_empty()).then_some(block)
        })
    }
}

fn entry_bytes(name: &[u8]) -> usize {
    DIRENT_BYTES + name.len()
}

fn blocks_before_last(blocks: usize) -> usize {
    blocks.saturating_sub(1)
}
