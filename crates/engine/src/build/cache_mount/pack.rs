//! What a cache mount holds as a compressed archive, and back.
//!
//! Invariant: equal contents give equal bytes. Devices and sockets are left out: no cache is
//! made of them, and what came from elsewhere must not bring any. So is what has the name of a
//! deletion in a layer.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use longshore_layers::{
    Change, DecompressLimits, Decompressor, Devices, DirectoryOptions, EntryPath, Kind, Listing,
    NoLowerLayers, Ownership, TarLimits, WriteOptions, changes_since, unpack, write_layer,
};
use longshore_oci::{Descriptor, Digest, Digester};
use longshore_solver::BoxError;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};

use super::NotExported;
use crate::{EngineError, LayerCompression};

/// How much of a blob is read at once.
const READ_BYTES: usize = 128 << 10;

/// What is said of a cache mount beside its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortableMount {
    /// How long the archive is.
    pub(crate) tar_bytes: u64,
    /// Of the directory itself, which is not in the archive.
    pub(crate) mode: u32,
    /// Of the directory itself.
    pub(crate) owner: (u32, u32),
}

/// An archive that was made, gone when dropped.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) file: NamedTempFile,
    pub(super) blob: Descriptor,
    pub(super) mount: PortableMount,
}

/// Packs a directory that nobody writes to; `tmp` is where unfinished files are.
pub(super) fn pack(
    directory: &Path,
    compression: LayerCompression,
    max_bytes: u64,
    tmp: &Path,
) -> Result<Packed, NotExported> {
    let root = File::open(directory).map_err(EngineError::io("open", directory))?;
    let changes = changes_since(&root, &Listing::default());
    let (mut changes, _) = changes.map_err(BoxError::from)?;
    changes.retain(|change| !is_device(&change.entry.kind) && !is_mark(&change.entry.path));
    if changes.is_empty() {
        return Err(NotExported::Empty);
    }
    within(max_bytes, changes.iter().map(file_bytes).sum())?;
    let mut file = NamedTempFile::new_in(tmp).map_err(EngineError::io("write below", tmp))?;
    let options = WriteOptions::new(compression.codec());
    let summary = write_layer(changes, &options, &mut file).map_err(BoxError::from)?;
    within(max_bytes, summary.uncompressed_size)?;
    let about = root.metadata();
    let about = about.map_err(EngineError::io("inspect", directory))?;
    Ok(Packed {
        file,
        blob: Descriptor::new(summary.media_type, summary.digest, summary.size),
        mount: PortableMount {
            tar_bytes: summary.uncompressed_size,
            mode: about.mode() & 0o7777,
            owner: (about.uid(), about.gid()),
        },
    })
}

fn within(max_bytes: u64, bytes: u64) -> Result<(), NotExported> {
    match bytes > max_bytes {
        true => Err(NotExported::TooLarge(bytes)),
        false => Ok(()),
    }
}

fn is_device(kind: &Kind) -> bool {
    matches!(kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. })
}

fn is_mark(path: &EntryPath) -> bool {
    path.components().any(|name| name.starts_with(b".wh."))
}

fn file_bytes(change: &Change) -> u64 {
    match change.entry.kind {
        Kind::File { size } => size,
        _ => 0,
    }
}

/// Unpacks a blob to a new directory below `tmp`, which is whole, and what the digest names, or
/// gone.
pub(crate) fn unpack_mount(
    blob: impl Read + Send,
    digest: Digest,
    mount: PortableMount,
    mut options: DirectoryOptions,
    tmp: &Path,
    limits: DecompressLimits,
) -> Result<TempDir, BoxError> {
    options.devices = Devices::Skip;
    let fresh = tempfile::Builder::new()
        .prefix("mount-")
        .tempdir_in(tmp)
        .map_err(EngineError::io("write below", tmp))?;
    let directory = File::open(fresh.path()).map_err(EngineError::io("open", fresh.path()))?;
    let mut hashed = Hashed {
        input: blob,
        digester: Digester::new(digest.algorithm()),
    };
    let limits = bounded(limits, mount.tar_bytes);
    let stream = Decompressor::new(&mut hashed, limits)?;
    let tar_limits = TarLimits::within(&limits);
    let unpacked = unpack(stream, &directory, &options, tar_limits, &NoLowerLayers);
    // What is wrong with the bytes says more than what is wrong with the archive in them.
    hashed.verify(&digest)?;
    unpacked?;
    let failed = || EngineError::io("change", fresh.path());
    if options.ownership == Ownership::Restore {
        let (user, group) = mount.owner;
        chown(fresh.path(), Some(user), Some(group)).map_err(failed())?;
    }
    let mode = Permissions::from_mode(mount.mode & 0o7777);
    fs::set_permissions(fresh.path(), mode).map_err(failed())?;
    Ok(fresh)
}

/// What is said of an archive's length is all that comes out of it.
fn bounded(mut limits: DecompressLimits, tar_bytes: u64) -> DecompressLimits {
    limits.output_bytes_max = limits.output_bytes_max.min(tar_bytes);
    limits
}

/// Hashes what is read.
struct Hashed<R> {
    input: R,
    digester: Digester,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.digester.update(&buffer[..count]);
        Ok(count)
    }
}

impl<R: Read> Hashed<R> {
    /// Reads the rest; an error when all of it is not what the digest names.
    fn verify(mut self, expected: &Digest) -> Result<(), BoxError> {
        io::copy(
            &mut BufReader::with_capacity(READ_BYTES, &mut self),
            &mut io::sink(),
        )?;
        let actual = self.digester.finish();
        if actual == *expected {
            return Ok(());
        }
        Err(format!("its blob {expected} is damaged: its digest is {actual}").into())
    }
}
