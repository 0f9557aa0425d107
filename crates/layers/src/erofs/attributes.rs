//! Extended attributes: those that occur more than once are stored once and named by number.
//!
//! ```text
//!  behind an inode:  header (12 bytes, with the number of shared ones)
//!                    numbers of shared ones, 4 bytes each
//!                    own ones: length of the name, prefix, length of the value, name, value
//! ```

use std::collections::BTreeMap;

use super::ImageError;
use super::format::{XATTR_HEADER_BYTES, XATTR_UNIT_BYTES};
use super::tree::{Node, Tree};
use crate::EntryPath;
use crate::directory::OverlayAttributes;

/// The prefixes of names that have a number.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];
/// The header counts shared attributes in one byte.
const SHARED_MAX: usize = 255;
/// A value's length is two bytes.
const VALUE_BYTES_MAX: usize = u16::MAX as usize;

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute<'a> {
    prefix: u8,
    name: &'a [u8],
    value: &'a [u8],
}

/// The attributes of all inodes.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    opaque: &'static [u8],
    /// Each shared one and where it is in their area, in units.
    shared: BTreeMap<Attribute<'a>, u32>,
}

/// The attributes of one inode.
#[derive(Debug, Default)]
pub(super) struct OwnAttributes<'a> {
    shared: Vec<u32>,
    inline: Vec<Attribute<'a>>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(tree: &'a Tree<'_>, overlay: OverlayAttributes) -> Result<Self, ImageError> {
        let mut attributes = Self {
            opaque: overlay.opaque().as_bytes(),
            shared: BTreeMap::new(),
        };
        let mut seen: BTreeMap<Attribute<'_>, bool> = BTreeMap::new();
        for node in tree.nodes() {
            for attribute in attributes.list(node)? {
                let again = seen.contains_key(&attribute);
                seen.insert(attribute, again);
            }
        }
        let mut units = 0;
        for (attribute, _) in seen.into_iter().filter(|(_, again)| *again) {
            attributes.shared.insert(attribute, units);
            let next = units as usize + attribute.bytes() / XATTR_UNIT_BYTES;
            let Ok(next) = u32::try_from(next) else { break };
            units = next;
        }
        Ok(attributes)
    }

    /// The bytes of the area of shared attributes.
    pub(super) fn encode_shared(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut in_order: Vec<_> = self.shared.iter().collect();
        in_order.sort_by_key(|(_, at)| **at);
        for (attribute, _) in in_order {
            attribute.encode(&mut out);
        }
        out
    }

    /// What is to stand behind the inode of `node`.
    pub(super) fn of(&self, node: &'a Node<'_>) -> Result<OwnAttributes<'a>, ImageError> {
        let mut own = OwnAttributes::default();
        for attribute in self.list(node)? {
            match self.shared.get(&attribute) {
                Some(at) if own.shared.len() < SHARED_MAX => own.shared.push(*at),
                _ => own.inline.push(attribute),
            }
        }
        match own.units() {
            Some(_) => Ok(own),
            None => Err(node.unfit("too many bytes of extended attributes")),
        }
    }

    fn list(&self, node: &'a Node<'_>) -> Result<Vec<Attribute<'a>>, ImageError> {
        let mut found = Vec::new();
        if node.opaque {
            found.push(attribute(self.opaque, b"y", node.path)?);
        }
        for (name, value) in node.attributes() {
            found.push(attribute(name, value, node.path)?);
        }
        Ok(found)
    }
}

impl OwnAttributes<'_> {
    /// How long they are, with their header.
    pub(super) fn bytes(&self) -> usize {
        if self.shared.is_empty() && self.inline.is_empty() {
            return 0;
        }
        let inline: usize = self.inline.iter().map(Attribute::bytes).sum();
        XATTR_HEADER_BYTES + self.shared.len() * XATTR_UNIT_BYTES + inline
    }

    /// The same as inodes say it: the header counts as one unit. `None` when it is too much.
    pub(super) fn units(&self) -> Option<u16> {
        match self.bytes().checked_sub(XATTR_HEADER_BYTES) {
            None => Some(0),
            Some(bytes) => u16::try_from(1 + bytes / XATTR_UNIT_BYTES).ok(),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if self.bytes() == 0 {
            return;
        }
        out.extend([0; 4]);
        out.push(u8::try_from(self.shared.len()).unwrap_or(u8::MAX));
        out.extend([0; 7]);
        for at in &self.shared {
            out.extend(at.to_le_bytes());
        }
        for attribute in &self.inline {
            attribute.encode(out);
        }
    }
}

impl Attribute<'_> {
    fn bytes(&self) -> usize {
        (4 + self.name.len() + self.value.len()).next_multiple_of(XATTR_UNIT_BYTES)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.bytes();
        // Both were checked when the attribute was listed.
        out.push(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
        out.push(self.prefix);
        out.extend(
            u16::try_from(self.value.len())
                .unwrap_or(u16::MAX)
                .to_le_bytes(),
        );
        out.extend_from_slice(self.name);
        out.extend_from_slice(self.value);
        out.resize(end, 0);
    }
}

fn attribute<'a>(
    name: &'a [u8],
    value: &'a [u8],
    path: &[u8],
) -> Result<Attribute<'a>, ImageError> {
    let unfit = |what| ImageError::Unfit {
        path: EntryPath::new(path).unwrap_or_default(),
        what,
    };
    let known = PREFIXES
        .iter()
        .find_map(|(prefix, text)| Some((*prefix, name.strip_prefix(*text)?)));
    let (prefix, name) = known.ok_or_else(|| unfit("an extended attribute of unknown kind"))?;
    if name.len() > u8::MAX.into() || value.len() > VALUE_BYTES_MAX {
        return Err(unfit("an extended attribute that is too long"));
    }
    Ok(Attribute {
        prefix,
        name,
        value,
    })
}
