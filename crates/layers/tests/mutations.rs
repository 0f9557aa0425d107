//! Archives that are changed at random, with their checksums made right again, against GNU tar and
//! bsdtar.
//!
//! The rule: what is accepted has the names, kinds and sizes that at least one of the two lists;
//! where both refuse, so does the reader (but for a missing end of the last padding); and unpacking touches nothing outside its directory.
//! `LONGSHORE_MUTATIONS=N` tries N archives rather than a few hundred, `LONGSHORE_MUTATION=SEED` one.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::made::Made;
use common::{open, options};
use longshore_layers::{DirectoryForm, Kind, NoLowerLayers, TarLimits, TarReader, unpack};

const MUTATIONS: u64 = 600;

/// Numbers without end from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A field of a header, and what may be written there.
struct Field {
    start: usize,
    length: usize,
    values: &'static [&'static [u8]],
}

const NUMBERS: &[&[u8]] = &[
    b"0000000\0",
    b"0000001\0",
    b"0000777 ",
    b"   1000\0",
    b"1000\0\0\0\0",
    b"00001000",
    b"\0\0\0\0\0\0\0\0",
    b"        ",
    b"-000001\0",
    b"0x00010\0",
    b"9999999\0",
    b"\x80\0\0\0\0\0\x02\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
];
const SIZES: &[&[u8]] = &[
    b"00000000000\0",
    b"00000000001\0",
    b"00000001000\0",
    b"00000001001 ",
    b"       1000\0",
    b"1000\0\0\0\0\0\0\0\0",
    b"000000002000",
    b"77777777777\0",
    b"-0000001000\0",
    b"\x80\0\0\0\0\0\0\0\0\0\x02\0",
    b"\x80\0\0\0\0\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\0",
    b"\0\0\0\0\0\0\0\0\0\0\0\0",
];
const NAMES: &[&[u8]] = &[
    b"a\0",
    b"d/e\0",
    b"d/\0",
    b"./x\0",
    b"/abs\0",
    b"../up\0",
    b"d/../../up\0",
    b"\0",
    b"f\0hidden",
];
const KINDS: &[&[u8]] = &[
    b"\0", b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V",
    b"D", b"A",
];
const MAGICS: &[&[u8]] = &[
    b"ustar\x0000",
    b"ustar  \0",
    b"\0\0\0\0\0\0\0\0",
    b"ustar\0\0\0",
    b"ustar 00",
];

const FIELDS: &[Field] = &[
    Field {
        start: 0,
        length: 100,
        values: NAMES,
    },
    Field {
        start: 100,
        length: 8,
        values: NUMBERS,
    },
    Field {
        start: 108,
        length: 8,
        values: NUMBERS,
    },
    Field {
        start: 116,
        length: 8,
        values: NUMBERS,
    },
    Field {
        start: 124,
        length: 12,
        values: SIZES,
    },
    Field {
        start: 136,
        length: 12,
        values: SIZES,
    },
    Field {
        start: 156,
        length: 1,
        values: KINDS,
    },
    Field {
        start: 157,
        length: 100,
        values: NAMES,
    },
    Field {
        start: 257,
        length: 8,
        values: MAGICS,
    },
    Field {
        start: 329,
        length: 8,
        values: NUMBERS,
    },
    Field {
        start: 337,
        length: 8,
        values: NUMBERS,
    },
    Field {
        start: 345,
        length: 155,
        values: NAMES,
    },
    // The old GNU format: the first part of a sparse file, whether more follow, the whole size.
    Field {
        start: 386,
        length: 12,
        values: SIZES,
    },
    Field {
        start: 398,
        length: 12,
        values: SIZES,
    },
    Field {
        start: 482,
        length: 1,
        values: &[b"\0", b"\x01"],
    },
    Field {
        start: 483,
        length: 12,
        values: SIZES,
    },
];

const RECORDS: &[(&str, &str)] = &[
    ("path", "r"),
    ("path", "d/r"),
    ("path", "../up"),
    ("path", ""),
    ("linkpath", "a"),
    ("size", "0"),
    ("size", "1"),
    ("size", "512"),
    ("size", "600"),
    ("size", "-1"),
    ("size", "1e3"),
    ("mtime", "1.5"),
    ("uid", "7"),
    ("uid", "99999999999"),
    ("comment", "c"),
    ("SCHILY.realsize", "9"),
    ("GNU.sparse.major", "1"),
    ("GNU.sparse.minor", "0"),
    ("GNU.sparse.name", "s"),
    ("GNU.sparse.realsize", "600"),
    ("GNU.sparse.size", "600"),
    ("GNU.sparse.map", "0,10"),
    ("GNU.sparse.numblocks", "1"),
];

/// One entry, and perhaps what says more about it.
fn put_entry(made: Made, random: &mut Random) -> Made {
    let name = *random.one_of(&["a", "b", "d", "d/e", "f", "./g"]);
    let size = random.below(1300);
    match random.below(10) {
        0..=2 => made.file(name, &vec![b'x'; size]),
        3 => made.header(b'5', name, 0, |_| {}),
        4 => made.header(b'1', name, 0, |block| block[157] = b'a'),
        5 => made.header(b'2', name, 0, |block| block[157] = b'a'),
        6 => {
            let kind = *random.one_of(b"LK");
            let made = made
                .header(kind, "././@LongLink", 6, |_| {})
                .data(b"d/long\0");
            made.file(name, b"content")
        }
        7 | 8 => {
            let count = 1 + random.below(3);
            let records: Vec<_> = (0..count).map(|_| *random.one_of(RECORDS)).collect();
            let kind = *random.one_of(b"xxxg");
            made.extended(kind, &records).file(name, &vec![b'y'; size])
        }
        _ => old_gnu_sparse(made, name),
    }
}

fn old_gnu_sparse(made: Made, name: &str) -> Made {
    let edit = |block: &mut [u8; 512]| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[386..398].copy_from_slice(b"00000001000\0");
        block[398..410].copy_from_slice(b"00000000100\0");
        block[483..495].copy_from_slice(b"00000003000\0");
    };
    made.header(b'S', name, 64, edit).data(&[b's'; 64])
}

/// An archive, changed in a few places.
fn archive(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut made = Made::default();
    for _ in 0..1 + random.below(4) {
        made = put_entry(made, &mut random);
    }
    let mut tar = made.file("last", b"z").done();
    for _ in 0..random.below(4) {
        mutate(&mut tar, &mut random);
    }
    if random.below(12) == 0 {
        tar.truncate(random.below(tar.len()));
    }
    tar
}

/// Changes one field of one header, and makes its checksum right again; or a byte that is none's.
fn mutate(tar: &mut [u8], random: &mut Random) {
    let headers: Vec<_> = (0..tar.len() / 512)
        .filter(|at| is_header(&tar[at * 512..]))
        .collect();
    if headers.is_empty() || random.below(10) == 0 {
        let at = random.below(tar.len());
        tar[at] = *random.one_of(b"\0 019ax=\n");
        return;
    }
    let at = random.one_of(&headers) * 512;
    let block = &mut tar[at..at + 512];
    let field = random.one_of(FIELDS);
    let place = &mut block[field.start..field.start + field.length];
    place.fill(0);
    let value = random.one_of(field.values);
    let length = value.len().min(field.length);
    place[..length].copy_from_slice(&value[..length]);
    let sum = sum(block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn sum(block: &[u8]) -> u32 {
    let others = block[..148].iter().chain(&block[156..512]);
    others.map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ')
}

fn is_header(block: &[u8]) -> bool {
    block[148..154] == *format!("{:06o}", sum(block)).as_bytes()
}

/// An entry as all three say it: its kind, its name, and of a file its size.
type Line = (char, String, u64);

fn ours(tar: &[u8]) -> Result<Vec<Line>, String> {
    let mut reader = TarReader::new(tar, TarLimits::LAYER);
    let mut lines = Vec::new();
    while let Some(member) = reader.next_member().map_err(|error| error.to_string())? {
        let (kind, size) = match member.entry.kind {
            Kind::File { size } => ('-', size),
            Kind::Directory { .. } => ('d', 0),
            Kind::Hardlink { .. } => ('h', 0),
            Kind::Symlink { .. } => ('l', 0),
            Kind::CharDevice { .. } => ('c', 0),
            Kind::BlockDevice { .. } => ('b', 0),
            Kind::Fifo => ('p', 0),
            Kind::Whiteout => unreachable!("archives have none"),
        };
        lines.push((kind, member.entry.path.to_string(), size));
    }
    Ok(lines)
}

/// What another program lists; `None` when it refuses.
fn theirs(program: &str, size_at: usize, archive: &Path) -> Option<Vec<Line>> {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .arg("-tvf")
        .arg(archive);
    let done = command.arg("--numeric-owner").output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    done.status
        .success()
        .then(|| text.lines().map(|line| parse(line, size_at)).collect())
}

fn parse(line: &str, size_at: usize) -> Line {
    let kind = match line.chars().next().unwrap() {
        'C' => '-',
        kind => kind,
    };
    let named = line.split(" -> ").next().unwrap();
    let named = named.split(" link to ").next().unwrap();
    let name = if named.ends_with(' ') {
        ""
    } else {
        named.rsplit(' ').next().unwrap()
    };
    let size = match kind {
        '-' => line
            .split_whitespace()
            .nth(size_at)
            .unwrap()
            .parse()
            .unwrap(),
        _ => 0,
    };
    (kind, clean(name), size)
}

/// A name from the root, without what means nothing.
fn clean(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn stays_inside(tar: &[u8], scratch: &Path, seed: u64) {
    let place = scratch.join("place");
    let root = place.join("root");
    fs::create_dir_all(&root).unwrap();
    let options = options(DirectoryForm::Merged);
    let _either = unpack(tar, open(&root), &options, TarLimits::LAYER, &NoLowerLayers);
    let beside: Vec<_> = fs::read_dir(&place)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(beside, ["root"], "seed {seed}");
    assert!(!Path::new("/abs").exists(), "seed {seed}");
    fs::remove_dir_all(&place).unwrap();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn what_is_accepted_of_changed_archives_is_what_another_reader_lists() {
    let programs = [("tar", 2), ("bsdtar", 4)];
    for (program, _) in programs {
        if Command::new(program).arg("--version").output().is_err() {
            common::skip(format_args!("no {program} here"));
            return;
        }
    }
    let seeds = match number("LONGSHORE_MUTATION") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LONGSHORE_MUTATIONS").unwrap_or(MUTATIONS),
    };
    let tried = seeds.end - seeds.start;
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path().join("a.tar");
    let mut accepted = 0_u64;
    for seed in seeds {
        let tar = archive(seed);
        stays_inside(&tar, scratch.path(), seed);
        let Ok(found) = ours(&tar) else { continue };
        accepted += 1;
        // An archive that ends within its last padding is taken, as Go takes it.
        let mut whole = tar;
        whole.resize(whole.len().next_multiple_of(512), 0);
        fs::write(&at, &whole).unwrap();
        let listed = programs.map(|(program, size_at)| theirs(program, size_at, &at));
        assert!(
            listed.iter().flatten().any(|listed| *listed == found),
            "seed {seed}: {found:?}, but tar and bsdtar: {listed:?}"
        );
    }
    assert!(
        tried < 50 || accepted > tried / 10,
        "only {accepted} of {tried} are archives at all"
    );
}
