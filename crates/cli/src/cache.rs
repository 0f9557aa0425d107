//! `--cache-from` and `--cache-to`: `type=registry,ref=…`, `type=local,src=…`, `REF`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use longshore_engine::{CacheMode, CachePlace, CacheSource, CacheTarget, LayerCompression};

use crate::output::parse_compression;
use crate::report::Usage;
use crate::spec::{parse_bool, parse_reference, split_csv, split_pair};
use crate::units::parse_bytes;

/// The largest cache mount that is moved where nothing else is said.
const MOUNTS_MAX_BYTES: u64 = 10 << 30;

/// The fields of a specification by name.
type Fields = BTreeMap<String, String>;

/// One `--cache-from`: a cache, or several references with commas between them.
pub(crate) fn parse_from(text: &str) -> Result<Vec<CacheSource>> {
    let parse = || {
        let parts = split_csv(text)?;
        if parts.iter().all(|part| !part.contains('=')) {
            let places = parts.iter().map(|part| registry(part));
            let source = |place| CacheSource {
                place,
                mounts_max_bytes: None,
            };
            return places.map(|place| place.map(source)).collect();
        }
        let mut fields = fields(parts, "--cache-from")?;
        let place = match take(&mut fields, "type")?.as_str() {
            "registry" => registry(&take(&mut fields, "ref")?)?,
            "local" => CachePlace::Directory(PathBuf::from(take(&mut fields, "src")?)),
            other => return unknown_type(other, "registry and local"),
        };
        let mounts_max_bytes = mounts(&mut fields)?;
        nothing_else(&fields)?;
        Ok(vec![CacheSource {
            place,
            mounts_max_bytes,
        }])
    };
    parse().with_context(|| format!("--cache-from `{text}`"))
}

/// One `--cache-to`.
pub(crate) fn parse_to(text: &str) -> Result<CacheTarget> {
    let parse = || {
        let parts = split_csv(text)?;
        if let [reference] = &parts[..]
            && !reference.contains('=')
        {
            return Ok(target(Some(registry(reference)?)));
        }
        let mut fields = fields(parts, "--cache-to")?;
        let mut target = match take(&mut fields, "type")?.as_str() {
            "registry" => target(Some(registry(&take(&mut fields, "ref")?)?)),
            "local" => {
                let folder = PathBuf::from(take(&mut fields, "dest")?);
                target(Some(CachePlace::Directory(folder)))
            }
            // The image's own output says how its layers are compressed.
            "inline" => {
                if mounts(&mut fields)?.is_some() {
                    return wrong("mounts: an image carries no cache mounts".to_owned());
                }
                let mut inline = target(None);
                inline.mode = mode(&mut fields)?;
                nothing_else(&fields)?;
                return Ok(inline);
            }
            other => return unknown_type(other, "registry, local and inline"),
        };
        options(&mut target, &mut fields)?;
        nothing_else(&fields)?;
        Ok(target)
    };
    parse().with_context(|| format!("--cache-to `{text}`"))
}

fn target(place: Option<CachePlace>) -> CacheTarget {
    CacheTarget {
        place,
        mode: CacheMode::Min,
        compression: LayerCompression::default(),
        force_compression: false,
        mounts_max_bytes: None,
        ignore_error: true,
    }
}

/// What is to be said of targets that are understood, and take less than they were asked to.
pub(crate) fn warnings(targets: &[CacheTarget]) -> Vec<String> {
    let inline = targets.iter().filter(|target| target.place.is_none());
    let max = inline.filter(|target| target.mode == CacheMode::Max);
    max.map(|_| {
        "warning: --cache-to `type=inline,mode=max`: an image carries the records of its own \
         layers alone, as with mode=min; use type=registry for every step's"
            .to_owned()
    })
    .collect()
}

fn mode(fields: &mut Fields) -> Result<CacheMode> {
    match fields.remove("mode").as_deref() {
        None | Some("min") => Ok(CacheMode::Min),
        Some("max") => Ok(CacheMode::Max),
        Some(other) => wrong(format!("mode `{other}`: min and max are known")),
    }
}

fn options(target: &mut CacheTarget, fields: &mut Fields) -> Result<()> {
    target.mode = mode(fields)?;
    let (kind, level) = (
        fields.remove("compression"),
        fields.remove("compression-level"),
    );
    if let Some(compression) = parse_compression(kind.as_deref(), level.as_deref())? {
        target.compression = compression;
    }
    target.mounts_max_bytes = mounts(fields)?;
    if let Some(value) = fields.remove("ignore-error") {
        target.ignore_error = parse_bool(&value).context("ignore-error")?;
    }
    if let Some(value) = fields.remove("force-compression") {
        target.force_compression = parse_bool(&value).context("force-compression")?;
    }
    for name in ["oci-mediatypes", "image-manifest"] {
        if let Some(value) = fields.remove(name)
            && !parse_bool(&value).with_context(|| name.to_owned())?
        {
            return wrong(format!("{name}=false: records are OCI image manifests"));
        }
    }
    Ok(())
}

/// The largest cache mount that is moved, if any are.
fn mounts(fields: &mut Fields) -> Result<Option<u64>> {
    let wanted = fields.remove("mounts");
    let wanted = wanted.map(|value| parse_bool(&value).context("mounts"));
    let most = fields.remove("mounts-max-size");
    let most = most.map(|value| parse_bytes(&value).context("mounts-max-size"));
    match (wanted.transpose()?.unwrap_or(false), most.transpose()?) {
        (false, None) => Ok(None),
        (false, Some(_)) => wrong("mounts-max-size: without mounts=true none are moved".to_owned()),
        (true, None) => Ok(Some(MOUNTS_MAX_BYTES)),
        (true, Some(0)) => Ok(Some(u64::MAX)),
        (true, Some(most)) => Ok(Some(most)),
    }
}

fn registry(text: &str) -> Result<CachePlace> {
    Ok(CachePlace::Registry(parse_reference(text)?))
}

fn fields(parts: Vec<String>, flag: &str) -> Result<Fields> {
    let mut fields = Fields::new();
    for part in parts {
        let (name, value) = split_pair(&part, flag)?;
        fields.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    Ok(fields)
}

fn take(fields: &mut Fields, name: &str) -> Result<String> {
    match fields.remove(name).filter(|value| !value.is_empty()) {
        Some(value) => Ok(value),
        None => wrong(format!("{name} is missing")),
    }
}

fn nothing_else(fields: &Fields) -> Result<()> {
    match fields.keys().next() {
        Some(name) => wrong(format!("`{name}` is not supported")),
        None => Ok(()),
    }
}

fn unknown_type<V>(kind: &str, known: &str) -> Result<V> {
    wrong(format!("type `{kind}` is not supported: {known} are"))
}

fn wrong<V>(text: String) -> Result<V> {
    Err(Usage(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> CachePlace {
        registry(text).unwrap()
    }

    #[test]
    fn caches_are_read_from_references_repositories_and_directories() {
        let from = |text: &str| -> Vec<CachePlace> {
            let sources = parse_from(text).unwrap().into_iter();
            sources.map(|source| source.place).collect()
        };
        assert_eq!(from("a/b:c"), [place("a/b:c")]);
        assert_eq!(from("a,b"), [place("a"), place("b")]);
        assert_eq!(from("type=registry,ref=h:5000/c"), [place("h:5000/c")]);
        assert_eq!(
            from("type=local,src=/x"),
            [CachePlace::Directory("/x".into())]
        );
    }

    #[test]
    fn a_target_has_a_place_a_mode_and_a_compression() {
        let to = parse_to(
            "type=registry,ref=h:5000/c:d,mode=max,compression=zstd,ignore-error=false,image-manifest=true",
        )
        .unwrap();
        assert_eq!(to.place, Some(place("h:5000/c:d")));
        assert_eq!(to.mode, CacheMode::Max);
        assert_eq!(to.compression, LayerCompression::Zstd(3));
        assert!(!to.ignore_error);
        assert_eq!(parse_to("type=inline").unwrap().place, None);
        assert!(parse_to("h/c").unwrap().ignore_error);
    }

    #[test]
    fn cache_mounts_are_moved_where_that_is_asked_for() {
        let both = |options: &str| {
            let from = parse_from(&format!("type=local,src=/x{options}")).unwrap();
            let to = parse_to(&format!("type=local,dest=/x{options}")).unwrap();
            assert_eq!(from[0].mounts_max_bytes, to.mounts_max_bytes, "{options}");
            to.mounts_max_bytes
        };
        assert_eq!(both(""), None);
        assert_eq!(both(",mounts=false"), None);
        assert_eq!(both(",mounts=true"), Some(10 << 30));
        assert_eq!(both(",mounts=true,mounts-max-size=2g"), Some(2 << 30));
        assert_eq!(both(",mounts=true,mounts-max-size=0"), Some(u64::MAX));
    }

    #[test]
    fn an_inline_cache_of_every_step_is_said_to_be_none() {
        let of = |text: &str| warnings(&[parse_to(text).unwrap()]);
        assert_eq!(of("type=inline,mode=max").len(), 1);
        for fine in [
            "type=inline",
            "type=inline,mode=min",
            "type=local,dest=x,mode=max",
        ] {
            assert_eq!(of(fine), [""; 0], "{fine}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "type=gha",
            "type=registry",
            "type=local,dest=",
            "type=local,dest=x,reset=true",
            "type=registry,ref=a,mode=some",
            "type=registry,ref=a,oci-mediatypes=false",
            "type=inline,mode=some",
            "type=inline,compression=zstd",
            "type=inline,mounts=true",
            "type=local,dest=x,mounts=many",
            "type=local,dest=x,mounts-max-size=1g",
            "",
        ] {
            assert!(parse_to(bad).is_err(), "{bad}");
        }
        for bad in ["type=inline", "type=local,dest=x", "type=registry,ref=A B"] {
            assert!(parse_from(bad).is_err(), "{bad}");
        }
    }
}
