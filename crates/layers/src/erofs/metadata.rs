//! The part of an image that is written when all of the layer was read: directories, attributes,
//! inodes, and the super block last.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::ImageError;
use super::attributes::{Attributes, OwnAttributes};
use super::data::{DataArea, Tails, whole_blocks};
use super::directory::Listing;
use super::format::{
    BLOCK_BYTES, DataLayout, FileType, Inode, SLOT_BYTES, SuperBlock, XATTR_HEADER_BYTES,
};
use super::tree::{Content, Node, NodeId, Tree};
use crate::directory::{LowerLayers, OverlayAttributes};
use crate::{ContentHash, Entry};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;
/// Inode 0 is nobody's: programs take an entry with that number for a deleted one.
const ROOT_SLOT: u16 = 1;

/// Ends the image of a layer whose files are in `data`. `listing` is sorted by path, and has for
/// files the hashes of their bytes.
pub(super) fn write(
    mut data: DataArea<'_>,
    listing: &[(&Entry, Option<ContentHash>)],
    overlay: OverlayAttributes,
    lower: &dyn LowerLayers,
) -> Result<(), ImageError> {
    let tree = Tree::build(listing, &mut data, lower)?;
    let image = data.image();
    let (first_block, tails) = data.finish()?;
    let attributes = Attributes::new(&tree, overlay)?;
    let shared = attributes.encode_shared();
    let layout = Layout::new(&tree, &attributes, first_block, shared.len())?;
    let mut out = Output {
        image,
        buffer: Vec::with_capacity(BUFFER_BYTES),
        written: u64::from(first_block) * BLOCK,
    };
    layout.write_blocks(&tree, &mut out)?;
    out.pad_to(u64::from(layout.attributes_block) * BLOCK)?;
    out.append(&shared)?;
    layout.write_inodes(&tree, &attributes, &tails, &mut out)?;
    let blocks = out.end().div_ceil(BLOCK);
    out.flush()?;
    image.set_len(blocks * BLOCK)?;
    let super_block = SuperBlock {
        root: ROOT_SLOT,
        inodes: tree.nodes().len() as u64,
        blocks: block_number(blocks)?,
        inodes_block: layout.inodes_block,
        attributes_block: layout.attributes_block,
    };
    Ok(image.write_all_at(&super_block.block(), 0)?)
}

/// Where everything stands.
#[derive(Debug)]
struct Layout {
    attributes_block: u32,
    inodes_block: u32,
    inodes: Vec<PlacedInode>,
}

#[derive(Debug)]
struct PlacedInode {
    inode: Inode,
    /// From the beginning of the inodes.
    at: u64,
    /// How many bytes of data stand behind it.
    tail: usize,
}

impl Layout {
    fn new(
        tree: &Tree<'_>,
        attributes: &Attributes<'_>,
        first_block: u32,
        shared_bytes: usize,
    ) -> Result<Self, ImageError> {
        let mut next_block = u64::from(first_block);
        let mut end = u64::from(ROOT_SLOT) * SLOT_BYTES;
        let mut inodes = Vec::with_capacity(tree.nodes().len());
        for (id, node) in (0..).zip(tree.nodes()) {
            let own = attributes.of(node)?;
            let placed = place(tree, id, &own, &mut next_block, &mut end)?;
            inodes.push(placed);
        }
        let attributes_block = next_block;
        let inodes_block = attributes_block + (shared_bytes as u64).div_ceil(BLOCK);
        Ok(Self {
            attributes_block: block_number(attributes_block)?,
            inodes_block: block_number(inodes_block)?,
            inodes,
        })
    }

    fn number(&self, id: NodeId) -> u64 {
        self.inodes[id as usize].at / SLOT_BYTES
    }

    /// The blocks of directories and long links.
    fn write_blocks(&self, tree: &Tree<'_>, out: &mut Output<'_>) -> io::Result<()> {
        for (id, node) in (0..).zip(tree.nodes()) {
            let tail = self.inodes[id as usize].tail;
            if matches!(node.content, Content::File { .. }) {
                continue;
            }
            let bytes = self.own_bytes(tree, id);
            let blocks = &bytes[..bytes.len() - tail];
            if !blocks.is_empty() {
                out.append(blocks)?;
                out.pad_to(out.end().next_multiple_of(BLOCK))?;
            }
        }
        Ok(())
    }

    fn write_inodes(
        &self,
        tree: &Tree<'_>,
        attributes: &Attributes<'_>,
        tails: &Tails<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), ImageError> {
        let start = u64::from(self.inodes_block) * BLOCK;
        let mut bytes = Vec::new();
        for (id, (node, placed)) in (0..).zip(tree.nodes().iter().zip(&self.inodes)) {
            bytes.clear();
            placed.inode.encode(&mut bytes);
            attributes.of(node)?.encode(&mut bytes);
            match &node.content {
                _ if placed.tail == 0 => {}
                Content::File { placement, .. } => {
                    let at = placement.tail.unwrap_or(0);
                    tails.read(at, placed.tail, &mut bytes)?;
                }
                _ => {
                    let own = self.own_bytes(tree, id);
                    bytes.extend_from_slice(&own[own.len() - placed.tail..]);
                }
            }
            out.pad_to(start + placed.at)?;
            out.append(&bytes)?;
        }
        // Checkers read a header of attributes behind every inode, also where there is none.
        let end = out.end() + XATTR_HEADER_BYTES as u64;
        Ok(out.pad_to(end.next_multiple_of(BLOCK))?)
    }

    /// The data of a node that is no file.
    fn own_bytes(&self, tree: &Tree<'_>, id: NodeId) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &tree.node(id).content {
            Content::Symlink(target) => bytes.extend_from_slice(target),
            Content::Directory { parent, children } => {
                let listing = Listing::new(id, *parent, children);
                listing.encode(tree, |id| self.number(id), &mut bytes);
            }
            Content::Nothing | Content::Device(_) | Content::File { .. } => {}
        }
        bytes
    }
}

/// Places a node's inode at `end` and its blocks, if they are not there already, at `next_block`.
fn place(
    tree: &Tree<'_>,
    id: NodeId,
    own: &OwnAttributes<'_>,
    next_block: &mut u64,
    end: &mut u64,
) -> Result<PlacedInode, ImageError> {
    let node = tree.node(id);
    let (size, tail) = lengths(id, node);
    let mut inode = Inode {
        kind: node.kind,
        mode: match node.kind {
            // Links have no permissions of their own, on any file system.
            FileType::Symlink => 0o777,
            _ => node.metadata.mode,
        },
        uid: node.metadata.uid,
        gid: node.metadata.gid,
        mtime: node.metadata.mtime,
        links: node.links,
        size,
        layout: match tail {
            0 => DataLayout::Plain,
            _ => DataLayout::Inline,
        },
        place: 0,
        attribute_units: own.units().unwrap_or(0),
        number: id + 1,
    };
    inode.place = match &node.content {
        Content::Device(number) => *number,
        Content::File { placement, .. } => placement.block,
        Content::Nothing => 0,
        Content::Symlink(_) | Content::Directory { .. } => {
            let first = *next_block;
            *next_block += (size - tail as u64).div_ceil(BLOCK);
            block_number(first)?
        }
    };
    let head = inode.bytes() as u64;
    let at = fitting_place(*end, head, own.bytes() as u64, tail as u64);
    *end = (at + head + own.bytes() as u64 + tail as u64).next_multiple_of(SLOT_BYTES);
    Ok(PlacedInode { inode, at, tail })
}

/// How long a node's data is, and how much of it stands behind the inode.
fn lengths(id: NodeId, node: &Node<'_>) -> (u64, usize) {
    let own = match &node.content {
        Content::Nothing | Content::Device(_) => 0,
        Content::File { size, placement } => {
            let tail = placement.tail.map_or(0, |_| *size % BLOCK);
            return (*size, usize::try_from(tail).unwrap_or(0));
        }
        Content::Symlink(target) => target.len(),
        Content::Directory { parent, children } => Listing::new(id, *parent, children).size(),
    };
    (own as u64, own - whole_blocks(own).min(own))
}

/// The first place from `end` on where neither the inode nor its data crosses the end of a
/// block; attributes between them may.
fn fitting_place(end: u64, head: u64, attributes: u64, tail: u64) -> u64 {
    let within_block = |at: u64, length: u64| at % BLOCK + length <= BLOCK;
    let fits = |at: &u64| {
        let tail_at = at + head + attributes;
        let is_apart = attributes == 0 && tail > 0 && tail_at.is_multiple_of(BLOCK);
        within_block(*at, head) && within_block(tail_at, tail) && !is_apart
    };
    let next = |at: &u64| Some(at + SLOT_BYTES);
    let mut places = std::iter::successors(Some(end), next);
    places.find(fits).unwrap_or(end)
}

fn block_number(block: u64) -> io::Result<u32> {
    u32::try_from(block).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Writes on where the data ends.
#[derive(Debug)]
struct Output<'a> {
    image: &'a File,
    buffer: Vec<u8>,
    written: u64,
}

impl Output<'_> {
    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        let gap = offset.saturating_sub(self.end());
        // Gaps are shorter than two blocks: attributes aside, everything is placed in order.
        let gap = usize::try_from(gap).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.buffer.resize(self.buffer.len() + gap, 0);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
