//! A case: a folder with a Dockerfile and its context.
//!
//! The comments above the first instruction say what the builders need to know: `# since: N`
//! (what the first major version of Docker is whose BuildKit knows this), `# with: FLAG` (a
//! flag for the build, once for each), `# refused` (the build must fail). What git does not
//! keep (modes, links, empty directories) a `prepare.sh` makes; it is no part of the context.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::harness::{Outcome, REPOSITORY};

/// The oldest peer that is any good.
const FIRST_DOCKER: u32 = 20;
/// When the files of the contexts were last changed: 2020-01-01.
const CONTEXT_TIME: Duration = Duration::from_secs(1_577_836_800);

/// A folder of `testdata/differential`.
pub(crate) struct Case {
    /// The folder's name.
    pub(crate) name: String,
    /// The first major version of Docker that can judge it.
    pub(crate) since: u32,
    /// Flags for the build.
    pub(crate) flags: Vec<String>,
    /// Whether the build must fail.
    pub(crate) refused: bool,
    folder: PathBuf,
}

/// The folder of all cases.
pub(crate) fn folder() -> PathBuf {
    Path::new(REPOSITORY).join("testdata/differential")
}

/// All cases, or those that `LONGSHORE_TEST_CASES` picks.
pub(crate) fn all() -> Vec<Case> {
    let picked = std::env::var("LONGSHORE_TEST_CASES").unwrap_or_default();
    let mut cases: Vec<Case> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| Case::read(&path))
        .filter(|case| case.name.contains(&picked))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

impl Case {
    fn read(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(folder.join("Dockerfile")).unwrap();
        let comments: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix("# "))
            .map(str::trim_end)
            .collect();
        assert!(!comments.is_empty(), "{name}: no comment says what it is");
        let since = comments
            .iter()
            .find_map(|line| line.strip_prefix("since: "))
            .map_or(FIRST_DOCKER, |version| version.parse().unwrap());
        let flags = comments
            .iter()
            .filter_map(|line| line.strip_prefix("with: "));
        Self {
            since,
            flags: flags.map(str::to_owned).collect(),
            refused: comments.contains(&"refused"),
            folder: folder.to_owned(),
            name,
        }
    }

    /// What the built image is called.
    pub(crate) fn tag(&self) -> String {
        format!("case-{}:1", self.name)
    }

    /// Makes the context.
    pub(crate) fn lay_out(&self, context: &Path) {
        for entry in walkdir::WalkDir::new(&self.folder) {
            let entry = entry.unwrap();
            let path = context.join(entry.path().strip_prefix(&self.folder).unwrap());
            if entry.file_type().is_dir() {
                fs::create_dir_all(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            } else {
                fs::write(&path, fs::read(entry.path()).unwrap()).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            }
        }
        set_times(context);
        self.prepare(context);
    }

    fn prepare(&self, context: &Path) {
        let script = context.join("prepare.sh");
        if !script.exists() {
            return;
        }
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "umask 022; script=$(cat prepare.sh); rm prepare.sh; set -e; eval \"$script\"",
            ])
            .current_dir(context);
        Outcome::of(command).success();
    }
}

fn set_times(context: &Path) {
    for entry in walkdir::WalkDir::new(context).contents_first(true) {
        let file = fs::File::open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + CONTEXT_TIME)
            .unwrap();
    }
}
