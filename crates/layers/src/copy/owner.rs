//! Whose what is made becomes: numbers, or names of the tree that is changed.

use crate::copy::CopyError;

/// An owner: a user, a group, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user; `None` is 0.
    pub user: Option<Principal>,
    /// The group; `None` is the user's own: its number, or its primary group by name.
    pub group: Option<Principal>,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name, in `/etc/passwd` or `/etc/group`.
    Name(String),
}

/// A file that names are looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameFile {
    Users,
    Groups,
}

impl NameFile {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Users => "/etc/passwd",
            Self::Groups => "/etc/group",
        }
    }
}

/// An owner in numbers, and names that are not known.
pub(super) struct Numbers {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) unknown: Vec<(NameFile, String)>,
}

impl Owner {
    /// By numbers.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self {
            user: Some(Principal::Id(uid)),
            group: Some(Principal::Id(gid)),
        }
    }

    /// Looks names up in what `read` gives (`None` where there is no such file). As in
    /// BuildKit, an unknown user is 0 with group 0, and an unknown group changes nothing.
    pub(super) fn numbers(
        &self,
        read: impl Fn(NameFile) -> Result<Option<Vec<u8>>, CopyError>,
    ) -> Result<Numbers, CopyError> {
        let mut unknown = Vec::new();
        let (uid, mut gid) = match &self.user {
            None => (0, 0),
            Some(Principal::Id(id)) => (*id, *id),
            Some(Principal::Name(name)) => {
                let file = read(NameFile::Users)?.unwrap_or_default();
                let found =
                    record(&file, name).map(|fields| (number(fields, 2), number(fields, 3)));
                found.unwrap_or_else(|| {
                    unknown.push((NameFile::Users, name.clone()));
                    (0, 0)
                })
            }
        };
        match &self.group {
            None => {}
            Some(Principal::Id(id)) => gid = *id,
            Some(Principal::Name(name)) => {
                let file = read(NameFile::Groups)?.unwrap_or_default();
                match record(&file, name) {
                    Some(fields) => gid = number(fields, 2),
                    None => unknown.push((NameFile::Groups, name.clone())),
                }
            }
        }
        Ok(Numbers { uid, gid, unknown })
    }
}

/// The first line whose first field is `name`.
fn record<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    file.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .find(|line| line.split(|byte| *byte == b':').next() == Some(name.as_bytes()))
}

/// A field as a number; 0 where it is none, as in misbehaving files that are accepted
/// elsewhere.
fn number(line: &[u8], field: usize) -> u32 {
    line.split(|byte| *byte == b':')
        .nth(field)
        .and_then(|field| std::str::from_utf8(field).ok()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\n\n  app:x:1000:1001::/:/bin/sh\n\
        app:x:7:7::/:\nodd:x:many:12\nshort\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:app,root\n";

    fn numbers(user: Option<Principal>, group: Option<Principal>) -> (u32, u32, usize) {
        let owner = Owner { user, group };
        let numbers = owner
            .numbers(|file| {
                Ok(Some(match file {
                    NameFile::Users => PASSWD.to_vec(),
                    NameFile::Groups => GROUP.to_vec(),
                }))
            })
            .unwrap();
        (numbers.uid, numbers.gid, numbers.unknown.len())
    }

    #[test]
    fn groups_default_to_the_users_own() {
        let name = |name: &str| Some(Principal::Name(name.to_owned()));
        let id = |id| Some(Principal::Id(id));
        assert_eq!(numbers(id(5), None), (5, 5, 0));
        assert_eq!(numbers(id(5), id(6)), (5, 6, 0));
        assert_eq!(numbers(None, id(6)), (0, 6, 0));
        assert_eq!(numbers(name("app"), None), (1000, 1001, 0));
        assert_eq!(numbers(name("app"), name("staff")), (1000, 50, 0));
        assert_eq!(numbers(name("odd"), None), (0, 12, 0));
        assert_eq!(numbers(name("short"), None), (0, 0, 0));
    }

    #[test]
    fn unknown_names_are_root_and_told() {
        let name = |name: &str| Some(Principal::Name(name.to_owned()));
        assert_eq!(numbers(name("nobody"), None), (0, 0, 1));
        assert_eq!(numbers(Some(Principal::Id(9)), name("none")), (9, 9, 1));
        let owner = Owner {
            user: name("app"),
            group: None,
        };
        let missing = owner.numbers(|_| Ok(None)).unwrap();
        assert_eq!((missing.uid, missing.unknown.len()), (0, 1));
    }
}
