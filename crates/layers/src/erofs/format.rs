//! The records of the on-disk format, as bytes. All numbers are little-endian.

use crate::Timestamp;

/// Blocks of 4096 bytes: every kernel reads them.
pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const BLOCK_BITS: u8 = 12;
/// Inodes stand on multiples of this, and are numbered by it.
pub(super) const SLOT_BYTES: u64 = 32;
pub(super) const SUPER_OFFSET: usize = 1024;
pub(super) const DIRENT_BYTES: usize = 12;
/// Ahead of an inode's own attributes: a filter, the number of shared ones, and reserved bytes.
pub(super) const XATTR_HEADER_BYTES: usize = 12;
/// Attributes are stored in units of this, and shared ones numbered by it.
pub(super) const XATTR_UNIT_BYTES: usize = 4;

const MAGIC: u32 = 0xE0F5_E1E2;
/// The times in inodes are modification times.
const FEATURE_COMPAT_MTIME: u32 = 2;

/// Where an inode's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// All in blocks.
    Plain = 0,
    /// In blocks but for the rest, which stands behind the inode.
    Inline = 2,
}

/// What an inode is, as the upper bits of its mode and as directories say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileType {
    File,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Symlink,
}

impl FileType {
    fn mode_bits(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// As directories say it.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// What the super block says.
#[derive(Clone, Copy, Debug)]
pub(super) struct SuperBlock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) inodes_block: u32,
    pub(super) attributes_block: u32,
}

impl SuperBlock {
    /// Block 0.
    pub(super) fn block(self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            block[SUPER_OFFSET + at..SUPER_OFFSET + at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &FEATURE_COMPAT_MTIME.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        // The time of inodes in the compact form, at 24, stays 0: 1970.
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.inodes_block.to_le_bytes());
        put(44, &self.attributes_block.to_le_bytes());
        block
    }
}

/// What an inode says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) kind: FileType,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) layout: DataLayout,
    /// The first block of the data, or a device's number.
    pub(super) place: u32,
    /// How long the attributes are, in units and with their header; 0 for none.
    pub(super) attribute_units: u16,
    /// For programs that know only 32 bits.
    pub(super) number: u32,
}

impl Inode {
    /// How long the inode is itself.
    pub(super) fn bytes(&self) -> usize {
        if self.compact_fields().is_some() {
            32
        } else {
            64
        }
    }

    /// The fields that are narrower in the compact form, which has no time of its own.
    fn compact_fields(&self) -> Option<(u16, u32, u16, u16)> {
        if self.mtime != Timestamp::default() {
            return None;
        }
        Some((
            u16::try_from(self.links).ok()?,
            u32::try_from(self.size).ok()?,
            u16::try_from(self.uid).ok()?,
            u16::try_from(self.gid).ok()?,
        ))
    }

    /// The inode's bytes, added to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let compact = self.compact_fields();
        let format = ((self.layout as u16) << 1) | u16::from(compact.is_none());
        let permissions = u16::try_from(self.mode & 0o7777).unwrap_or(0);
        out.extend(format.to_le_bytes());
        out.extend(self.attribute_units.to_le_bytes());
        out.extend((self.kind.mode_bits() | permissions).to_le_bytes());
        if let Some((links, size, uid, gid)) = compact {
            out.extend(links.to_le_bytes());
            out.extend(size.to_le_bytes());
            out.extend([0; 4]);
            out.extend(self.place.to_le_bytes());
            out.extend(self.number.to_le_bytes());
            out.extend(uid.to_le_bytes());
            out.extend(gid.to_le_bytes());
            out.extend([0; 4]);
            return;
        }
        out.extend([0; 2]);
        out.extend(self.size.to_le_bytes());
        out.extend(self.place.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.uid.to_le_bytes());
        out.extend(self.gid.to_le_bytes());
        out.extend(self.mtime.seconds.to_le_bytes());
        out.extend(self.mtime.nanoseconds.to_le_bytes());
        out.extend(self.links.to_le_bytes());
        out.extend([0; 16]);
    }
}

/// A device's number as inodes hold it; `None` when it is too large.
pub(super) fn device(major: u32, minor: u32) -> Option<u32> {
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}
