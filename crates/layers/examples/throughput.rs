//! Prints how fast layers are written, read, unpacked and diffed on this machine.
//!
//! `cargo run --release -p longshore-layers --example throughput [FOLDER]`: with a folder, the
//! files below it are the large layer's content; without, made-up text is.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use longshore_layers::{
    Change, Compression, Compressor, DecompressLimits, Decompressor, DirectoryForm,
    DirectoryOptions, EntryPath, LayerIndex, NoLowerLayers, OverlayAttributes, Ownership,
    TarLimits, TreeView, WriteOptions, all_cores, diff_upper, index_of_tar, materialise, unpack,
    write_layer,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SMALL_FILES: usize = 30_000;
const LARGE_BYTES: usize = 200 << 20;

fn main() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let small = scratch.path().join("small");
    make_small_files(&small)?;
    let large = scratch.path().join("large");
    fs::create_dir(&large)?;
    let large = match std::env::args_os().nth(1) {
        Some(folder) => folder.into(),
        None => {
            fs::write(large.join("file"), text(LARGE_BYTES, 1))?;
            large
        }
    };
    for (name, folder) in [("30,000 small files", &small), ("large", &large)] {
        println!("# {name}");
        measure(folder, scratch.path())?;
    }
    Ok(())
}

fn make_small_files(folder: &Path) -> Result<()> {
    for number in 0..SMALL_FILES {
        let directory = folder.join(format!("pkg{}/lib{}", number / 1000, number % 1000 / 40));
        if number % 40 == 0 {
            fs::create_dir_all(&directory)?;
        }
        let content = text(number % 61 * 97, number as u64);
        fs::write(directory.join(format!("file{number}.js")), content)?;
    }
    Ok(())
}

/// Text that compresses about as well as programs do.
fn text(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64 ^ (seed << 20);
    let mut out = Vec::with_capacity(bytes + 64);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(b"module.exports = require('./");
        out.extend_from_slice(format!("{:x}", state & 0xfff).as_bytes());
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

fn open(folder: &Path) -> Result<OwnedFd> {
    Ok(fs::File::open(folder)?.into())
}

fn timed<T>(what: &str, bytes: u64, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let out = run()?;
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = bytes as f64 / 1e6;
    println!(
        "{what:<34} {seconds:>7.3} s {:>8.0} MB/s",
        megabytes / seconds
    );
    Ok(out)
}

fn measure(folder: &Path, scratch: &Path) -> Result<()> {
    let upper = open(folder)?;
    let view = TreeView::empty();
    let changes: Vec<Change> = timed("diff (all new)", 0, || {
        Ok(diff_upper(&upper, &view, OverlayAttributes::User)?)
    })?;
    let plain = WriteOptions::new(Compression::None);
    let mut tar = Vec::new();
    let summary = write_layer(changes.iter().cloned(), &plain, &mut tar)?;
    let size = summary.uncompressed_size;
    println!("{} entries, {} MB of tar", changes.len(), size / 1_000_000);
    for threads in [NonZeroUsize::MIN, all_cores()] {
        for compression in [
            Compression::None,
            Compression::Gzip { level: 1 },
            Compression::GZIP,
            Compression::ZSTD,
        ] {
            let options = WriteOptions {
                compression,
                threads,
            };
            let written = timed(&format!("write {compression:?} x{threads}"), size, || {
                Ok(write_layer(changes.iter().cloned(), &options, io::sink())?)
            })?;
            println!(
                "{:>34} {:.4} of the tar",
                "",
                written.size as f64 / size as f64
            );
        }
    }
    timed("plain gzip -6, one thread", size, || plain_gzip(&tar))?;
    let blob = compressed(&tar)?;
    timed("index of gzip", size, || {
        let stream = Decompressor::new(&blob[..], DecompressLimits::LAYER)?;
        Ok(index_of_tar(stream, TarLimits::LAYER)?)
    })?;
    timed("index of tar", size, || {
        Ok(index_of_tar(&tar[..], TarLimits::LAYER)?)
    })?;
    timed("view", 0, || {
        Ok(TreeView::new(&[Arc::new(summary.index.clone())]))
    })?;
    view_of_layers(&summary.index)?;
    let stored = timed("encode index", 0, || Ok(summary.index.encode()))?;
    println!("{:>34} {} bytes", "", stored.len());
    for threads in [NonZeroUsize::MIN, all_cores()] {
        let mut options = DirectoryOptions::new(DirectoryForm::Merged);
        options.ownership = Ownership::Ignore;
        options.threads = threads;
        let out = scratch.join("out");
        fs::create_dir(&out)?;
        timed(&format!("unpack gzip x{threads}"), size, || {
            let stream = Decompressor::new(&blob[..], DecompressLimits::LAYER)?;
            Ok(unpack(
                stream,
                open(&out)?,
                &options,
                TarLimits::LAYER,
                &NoLowerLayers,
            )?)
        })?;
        fs::remove_dir_all(&out)?;
        fs::create_dir(&out)?;
        timed(&format!("materialise x{threads}"), size, || {
            Ok(materialise(
                &changes,
                open(&out)?,
                &options,
                &NoLowerLayers,
            )?)
        })?;
        fs::remove_dir_all(&out)?;
    }
    Ok(())
}

fn view_of_layers(index: &LayerIndex) -> Result<()> {
    let size = index.len().div_ceil(100).max(1);
    let layers: std::result::Result<Vec<_>, _> = index
        .entries()
        .chunks(size)
        .map(|entries| LayerIndex::new(entries.to_vec()).map(Arc::new))
        .collect();
    let layers = layers?;
    let view = timed("view of 100 layers", 0, || Ok(TreeView::new(&layers)))?;
    timed("clone and one layer more", 0, || {
        let mut more = view.clone();
        more.push(Arc::clone(&layers[0]));
        Ok(more)
    })?;
    timed("walk", 0, || Ok(view.walk(&EntryPath::root()).count()))?;
    timed("look every path up", 0, || {
        let entries = index.entries().iter();
        Ok(entries
            .filter(|line| view.lookup(&line.entry.path).is_some())
            .count())
    })?;
    Ok(())
}

fn compressed(tar: &[u8]) -> Result<Vec<u8>> {
    let mut compressor = Compressor::new(Compression::GZIP, all_cores(), Vec::new())?;
    compressor.write_all(tar)?;
    Ok(compressor.finish()?)
}

fn plain_gzip(tar: &[u8]) -> Result<()> {
    let level = flate2::Compression::new(6);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(tar)?;
    let size = encoder.finish()?.len();
    println!(
        "{:>34} {:.4} of the tar",
        "",
        size as f64 / tar.len() as f64
    );
    Ok(())
}
