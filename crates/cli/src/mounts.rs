//! What `run` mounts, as Docker writes it: `--volume`, `--tmpfs` and `--mount`.

use anyhow::{Context as _, Result};
use longshore_engine::{ContainerMount, ContainerMounted, VolumeName};
use longshore_runner::Refused;

use crate::report::Usage;
use crate::units;

/// As Docker's memory mounts: nothing in them is executed or opened as a device.
const TMPFS_MODE: u32 = 0o1777;

/// `[SOURCE:]TARGET[:OPTIONS]`: a path of this machine, a volume's name, or neither.
pub(crate) fn parse_volume(text: &str) -> Result<ContainerMount> {
    let wrong = |why: &str| Usage(format!("--volume `{text}`: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(wrong("expected [SOURCE:]TARGET[:OPTIONS]").into()),
    };
    if !target.starts_with('/') {
        return Err(wrong("the target is not absolute").into());
    }
    let mut readonly = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => readonly = true,
            "rw" => readonly = false,
            // Where there are no labels there is nothing to change; mounts are private and consistent.
            "z" | "Z" if !has_labels() => {}
            "z" | "Z" => crate::report::say(&format!(
                "warning: --volume `{text}`: files are not given another SELinux label"
            )),
            "private" | "rprivate" | "consistent" | "cached" | "delegated" => {}
            other => return Err(wrong(&format!("`{other}` is not supported")).into()),
        }
    }
    let mounted = match source {
        None => ContainerMounted::Anonymous,
        Some(path) if path.starts_with(['/', '.']) => ContainerMounted::Path {
            source: std::path::absolute(path).with_context(|| format!("--volume `{text}`"))?,
            make: true,
        },
        Some(name) => ContainerMounted::Volume(name_of(name, "--volume", text)?),
    };
    Ok(ContainerMount {
        target: target.to_owned(),
        readonly,
        mounted,
    })
}

fn has_labels() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

fn name_of(name: &str, flag: &str, text: &str) -> Result<VolumeName> {
    let parsed = name.parse::<VolumeName>();
    parsed.map_err(|error| Usage(format!("{flag} `{text}`: {error}")).into())
}

/// `TARGET[:OPTIONS]`.
pub(crate) fn parse_tmpfs(text: &str) -> Result<ContainerMount> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let wrong = |why: String| Usage(format!("--tmpfs `{text}`: {why}"));
    if !target.starts_with('/') {
        return Err(wrong("the target is not absolute".to_owned()).into());
    }
    let (mut refused, mut readonly) = (Refused::ALL, false);
    let (mut size_bytes, mut mode) = (None, TMPFS_MODE);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("ro", "") => readonly = true,
            ("rw", "") => readonly = false,
            ("exec", "") => refused.exec = false,
            ("noexec", "") => refused.exec = true,
            ("suid", "") => refused.suid = false,
            ("nosuid", "") => refused.suid = true,
            ("dev", "") => refused.devices = false,
            ("nodev", "") => refused.devices = true,
            ("size", size) => {
                let bytes = units::parse_bytes(size);
                size_bytes = Some(bytes.with_context(|| format!("--tmpfs `{text}`"))?);
            }
            ("mode", octal) => {
                mode = parse_mode(octal).with_context(|| format!("--tmpfs `{text}`"))?;
            }
            _ => return Err(wrong(format!("`{option}` is not supported")).into()),
        }
    }
    Ok(ContainerMount {
        target: target.to_owned(),
        readonly,
        mounted: ContainerMounted::Memory {
            size_bytes,
            mode,
            refused,
        },
    })
}

fn parse_mode(octal: &str) -> Result<u32> {
    let mode = u32::from_str_radix(octal, 8).with_context(|| format!("mode `{octal}`"))?;
    anyhow::ensure!(mode <= 0o7777, "mode `{octal}`: there are no such bits");
    Ok(mode)
}

/// What a `--mount` says, field by field.
#[derive(Default)]
struct Fields<'text> {
    kind: Option<&'text str>,
    source: Option<&'text str>,
    target: Option<&'text str>,
    readonly: bool,
    size: Option<&'text str>,
    mode: Option<&'text str>,
}

impl<'text> Fields<'text> {
    fn read(text: &'text str) -> Result<Self> {
        let mut fields = Self::default();
        for field in text.split(',') {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            match name {
                "type" => fields.kind = Some(value),
                "source" | "src" => fields.source = Some(value),
                "target" | "dst" | "destination" => fields.target = Some(value),
                "readonly" | "ro" => fields.readonly = parse_switch(field, value)?,
                "tmpfs-size" => fields.size = Some(value),
                "tmpfs-mode" => fields.mode = Some(value),
                "bind-propagation" if ["rprivate", "private"].contains(&value) => {}
                _ => anyhow::bail!("`{field}` is not supported"),
            }
        }
        Ok(fields)
    }

    /// A field that its type has no use for is a mistake.
    fn refuse(&self, kind: &str, what: &[(&str, bool)]) -> Result<()> {
        let given = what.iter().find(|(_, given)| *given);
        match given {
            Some((name, _)) => anyhow::bail!("a {kind} mount has no {name}"),
            None => Ok(()),
        }
    }

    fn mounted(&self, text: &str) -> Result<ContainerMounted> {
        let memory = [
            ("tmpfs-size", self.size.is_some()),
            ("tmpfs-mode", self.mode.is_some()),
        ];
        match self.kind.unwrap_or("volume") {
            "bind" => {
                self.refuse("bind", &memory)?;
                let source = self.source.context("`source` is missing")?;
                let source = std::path::absolute(source)?;
                Ok(ContainerMounted::Path {
                    source,
                    make: false,
                })
            }
            "volume" => {
                self.refuse("volume", &memory)?;
                Ok(match self.source.filter(|name| !name.is_empty()) {
                    None => ContainerMounted::Anonymous,
                    Some(name) => ContainerMounted::Volume(name_of(name, "--mount", text)?),
                })
            }
            "tmpfs" => {
                self.refuse("tmpfs", &[("source", self.source.is_some())])?;
                Ok(ContainerMounted::Memory {
                    size_bytes: self.size.map(units::parse_bytes).transpose()?,
                    mode: self.mode.map_or(Ok(TMPFS_MODE), parse_mode)?,
                    refused: Refused::ALL,
                })
            }
            other => anyhow::bail!("type `{other}`: bind, volume and tmpfs are known"),
        }
    }
}

fn parse_switch(field: &str, value: &str) -> Result<bool> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => anyhow::bail!("`{field}`: true or false"),
    }
}

/// `type=bind|volume|tmpfs,source=…,target=…[,readonly]…`.
pub(crate) fn parse_mount(text: &str) -> Result<ContainerMount> {
    let parse = || -> Result<ContainerMount> {
        let fields = Fields::read(text)?;
        let target = fields.target.context("`target` is missing")?;
        anyhow::ensure!(target.starts_with('/'), "the target is not absolute");
        Ok(ContainerMount {
            target: target.to_owned(),
            readonly: fields.readonly,
            mounted: fields.mounted(text)?,
        })
    };
    parse().with_context(|| format!("--mount `{text}`"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn volumes() {
        let volume = parse_volume("/a:/b:ro,z").unwrap();
        assert_eq!((volume.target.as_str(), volume.readonly), ("/b", true));
        let path = |source: &str, make| ContainerMounted::Path {
            source: PathBuf::from(source),
            make,
        };
        assert_eq!(volume.mounted, path("/a", true));
        let named = parse_volume("name:/b").unwrap().mounted;
        assert_eq!(named, ContainerMounted::Volume("name".parse().unwrap()));
        let anonymous = parse_volume("/b").unwrap();
        assert_eq!(anonymous.mounted, ContainerMounted::Anonymous);
        for bad in [
            "a", "/a:b", "/b:ro", "/a:/b:zz", "a:b:c:d", "../x:y", "na/me:/b",
        ] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
        let mount = parse_mount("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert_eq!((mount.readonly, mount.mounted), (true, path("/a", false)));
    }

    #[test]
    fn memory() {
        let memory = |size_bytes, mode, refused| ContainerMounted::Memory {
            size_bytes,
            mode,
            refused,
        };
        let tmpfs = |text| parse_tmpfs(text).map(|it| it.mounted);
        assert_eq!(
            tmpfs("/t:size=1m,mode=755").unwrap(),
            memory(Some(1 << 20), 0o755, Refused::ALL)
        );
        let exec = Refused {
            exec: false,
            ..Refused::ALL
        };
        assert_eq!(tmpfs("/t:rw,exec").unwrap(), memory(None, 0o1777, exec));
        for bad in ["/t:nope", "t", "/t:size=x", "/t:mode=77777", "/t:ro=1"] {
            assert!(parse_tmpfs(bad).is_err(), "{bad}");
        }
        let mount = parse_mount("type=tmpfs,target=/t,tmpfs-size=64k,tmpfs-mode=700").unwrap();
        assert_eq!(mount.mounted, memory(Some(64 << 10), 0o700, Refused::ALL));
        for bad in [
            "type=tmpfs,target=/t,source=x",
            "type=bind,target=/t",
            "type=volume,target=t",
            "type=npipe,target=/t",
            "type=bind,source=/a,target=/t,tmpfs-size=1",
            "type=bind,source=/a,target=/t,bind-propagation=shared",
        ] {
            assert!(parse_mount(bad).is_err(), "{bad}");
        }
    }
}
