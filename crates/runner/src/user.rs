//! Who the process is: a Dockerfile's `USER`, resolved with the image's own files.
//!
//! The rules are moby/sys/user's as BuildKit uses them, and their traps:
//! - A number is always an id, never a name, even when `passwd` has a user of that name.
//! - Ids end at 2³¹-1. 4294967295 would leave the process root: `setresuid(-1)` changes nothing.
//! - Digits that fit no id are an error, not a name; a line of `passwd` whose id is no number is
//!   skipped, not root.
//! - Groups that list the user as a member are taken only if no group is named.

use rustix::process::{Gid, Uid};

/// The largest id (moby/sys/user's `maxID`).
const ID_MAX: u32 = i32::MAX as u32;

/// Whom to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups; the primary one always comes first.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl Identity {
    pub(crate) fn uid(&self) -> Uid {
        Uid::from_raw(self.uid)
    }

    pub(crate) fn gid(&self) -> Gid {
        Gid::from_raw(self.gid)
    }
}

/// Resolves `user` with the contents of `/etc/passwd` and `/etc/group` (empty if there are none).
pub(crate) fn resolve(user: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, String> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    if let (Some(uid), Some(gid)) = (known_id(user_part), known_id(group_part)) {
        let home = home_of(uid, passwd);
        return Ok(Identity {
            uid,
            gid,
            groups: vec![gid],
            home,
        });
    }
    let found = find_user(if user_part.is_empty() { "0" } else { user_part }, passwd)?;
    let (gid, mut groups) = match group_part {
        "" => (found.gid, member_groups(found.name, group)),
        named => (find_group(named, group)?, Vec::new()),
    };
    groups.retain(|it| *it != gid);
    groups.insert(0, gid);
    Ok(Identity {
        uid: found.uid,
        gid,
        groups,
        home: home_of(found.uid, passwd),
    })
}

struct Found<'file> {
    name: Option<&'file str>,
    uid: u32,
    gid: u32,
}

fn find_user<'file>(wanted: &str, passwd: &'file [u8]) -> Result<Found<'file>, String> {
    let wanted_id = parse_id(wanted)?;
    let matches = |line: &PasswdLine<'_>| match wanted_id {
        Some(id) => line.uid == id,
        None => line.name == wanted,
    };
    if let Some(line) = passwd_lines(passwd).find(matches) {
        return Ok(Found {
            name: Some(line.name),
            uid: line.uid,
            gid: line.gid,
        });
    }
    match wanted_id {
        Some(uid) => Ok(Found {
            name: None,
            uid,
            gid: 0,
        }),
        None => Err(format!(
            "unable to find user {wanted}: no matching entries in passwd file"
        )),
    }
}

fn find_group(wanted: &str, group: &[u8]) -> Result<u32, String> {
    if let Some(id) = parse_id(wanted)? {
        return Ok(id);
    }
    let found = group_lines(group).find(|line| line.name == wanted);
    found
        .map(|line| line.gid)
        .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))
}

fn member_groups(name: Option<&str>, group: &[u8]) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let mut groups: Vec<u32> = Vec::new();
    for line in group_lines(group) {
        if line.members.split(',').any(|it| it == name) && !groups.contains(&line.gid) {
            groups.push(line.gid);
        }
    }
    groups
}

/// runc sets `HOME` from the first entry of the id, whatever name it was found by.
fn home_of(uid: u32, passwd: &[u8]) -> String {
    let home = passwd_lines(passwd)
        .find(|line| line.uid == uid)
        .map_or("", |line| line.home);
    if home.is_empty() {
        "/".to_owned()
    } else {
        home.to_owned()
    }
}

/// The id that both halves of `USER user:group` may be without the image's files.
fn known_id(text: &str) -> Option<u32> {
    match text {
        "root" => Some(0),
        _ => parse_id(text).ok().flatten(),
    }
}

/// An id, if the text is a number at all.
fn parse_id(text: &str) -> Result<Option<u32>, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(format!("uids and gids must be in range 0-{ID_MAX}")),
    }
}

struct PasswdLine<'file> {
    name: &'file str,
    uid: u32,
    gid: u32,
    home: &'file str,
}

/// `name:password:uid:gid:comment:home:shell`
fn passwd_lines(file: &[u8]) -> impl Iterator<Item = PasswdLine<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = parse_id(fields.nth(1)?).ok()??;
        let gid = parse_id(fields.next()?).ok()??;
        Some(PasswdLine {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or_default(),
        })
    })
}

struct GroupLine<'file> {
    name: &'file str,
    gid: u32,
    members: &'file str,
}

/// `name:password:gid:member,member`
fn group_lines(file: &[u8]) -> impl Iterator<Item = GroupLine<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = parse_id(fields.nth(1)?).ok()??;
        Some(GroupLine {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n')
        .filter_map(|line| str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        bin:x:1:1::/bin:/bin/false\n\
        1000:x:0:0:a name that is a number:/root:/bin/sh\n\
        4294967296:x:0:0::/root:/bin/sh\n\
        broken:x:zero:0::/root:/bin/sh\n\
        app:x:1001:1002::/home/app:/bin/sh\n\
        twin:x:1001:7::/home/twin:/bin/sh\n\
        high:x:4294967295:0::/:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:root\nwheel:x:10:root,app\nstaff:x:50:app,bin\n\
        staff2:x:50:app\napp:x:1002:\n77:x:0:\n";

    fn ids(user: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        resolve(user, PASSWD, GROUP).map(|it| (it.uid, it.gid, it.groups, it.home))
    }

    fn some(
        uid: u32,
        gid: u32,
        groups: &[u32],
        home: &str,
    ) -> Result<(u32, u32, Vec<u32>, String), String> {
        Ok((uid, gid, groups.to_vec(), home.to_owned()))
    }

    #[test]
    fn every_form_of_user() {
        assert_eq!(ids(""), some(0, 0, &[0, 10], "/root"));
        assert_eq!(ids("root"), some(0, 0, &[0, 10], "/root"));
        assert_eq!(ids("0"), some(0, 0, &[0, 10], "/root"));
        assert_eq!(ids("0:0"), some(0, 0, &[0], "/root"));
        assert_eq!(ids("app"), some(1001, 1002, &[1002, 10, 50], "/home/app"));
        assert_eq!(ids("1001"), some(1001, 1002, &[1002, 10, 50], "/home/app"));
        assert_eq!(ids("app:"), some(1001, 1002, &[1002, 10, 50], "/home/app"));
        assert_eq!(ids("app:staff"), some(1001, 50, &[50], "/home/app"));
        assert_eq!(ids("app:1234"), some(1001, 1234, &[1234], "/home/app"));
        assert_eq!(ids(":staff"), some(0, 50, &[50], "/root"));
        assert_eq!(ids("5555"), some(5555, 0, &[0], "/"));
        assert_eq!(ids("5555:6666"), some(5555, 6666, &[6666], "/"));
        assert_eq!(
            ids("twin"),
            some(1001, 7, &[7], "/home/app"),
            "home is the id's first"
        );
    }

    #[test]
    fn cve_2016_3697_and_kin_a_number_is_never_a_name_and_never_wraps_to_root() {
        assert_eq!(ids("1000"), some(1000, 0, &[0], "/"));
        assert_eq!(ids("app:77"), some(1001, 77, &[77], "/home/app"));
        for user in [
            "4294967295",
            "4294967296",
            "2147483648",
            "-1",
            "99999999999999999999",
            "-0",
        ] {
            assert!(
                ids(user).is_err_and(|error| error.contains("range")),
                "{user}"
            );
            assert!(ids(&format!("app:{user}")).is_err(), "{user}");
        }
        for user in ["0x0", "broken", "nobody", " root", "high", "app:nogroup"] {
            assert!(
                ids(user).is_err_and(|error| error.contains("no matching entries")),
                "{user}"
            );
        }
    }

    #[test]
    fn images_without_passwd() {
        let bare = |user| resolve(user, b"", b"").map(|it| (it.uid, it.gid, it.groups, it.home));
        assert_eq!(bare(""), some(0, 0, &[0], "/"));
        assert_eq!(bare("7"), some(7, 0, &[0], "/"));
        assert!(bare("root").is_err());
        assert_eq!(bare("root:root"), some(0, 0, &[0], "/"));
        assert_eq!(bare("7:root"), some(7, 0, &[0], "/"));
        assert!(bare("root:staff").is_err());
    }

    #[test]
    fn lines_that_are_commented_out_do_not_count() {
        let passwd = b"#ghost:x:1500:10::/ghost:/bin/sh\napp:x:7:8::/app:/bin/sh\n";
        let group = b"#wheel:x:10:app\n # staff:x:11:app\nusers:x:12:app\n";
        let found = |user| resolve(user, passwd, group).map(|it| (it.gid, it.groups, it.home));
        assert_eq!(found("app"), Ok((8, vec![8, 12], "/app".to_owned())));
        assert_eq!(found("1500"), Ok((0, vec![0], "/".to_owned())));
        assert!(found("#ghost").is_err() && found("app:#wheel").is_err());
    }

    #[test]
    fn cve_2024_9676_long_lines_and_many_members_are_just_read() {
        let mut group = b"big:x:9:".to_vec();
        for n in 0..200_000 {
            group.extend(format!("user{n},").bytes());
        }
        group.extend(b"app\n");
        assert_eq!(resolve("app", PASSWD, &group).unwrap().groups, [1002, 9]);
    }
}
