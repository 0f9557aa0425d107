//! `-o/--output`: `type=oci,dest=x,compression=zstd`, in BuildKit's words. A field that the type
//! has no use for is refused.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use longshore_engine::{
    GZIP_LEVEL_DEFAULT, LayerCompression, OutputKind, OutputSpec, ZSTD_LEVEL_DEFAULT,
};

use crate::annotation;
use crate::spec::{parse_bool, parse_reference, split_csv, split_pair};

/// One `-o/--output`.
pub(crate) fn parse_output(text: &str) -> Result<OutputSpec> {
    // `-o DIR` and `-o -` are short for a directory and a tar on standard output.
    if !text.contains('=') && !text.contains(',') {
        return Ok(match text {
            "" => bail!("--output: a destination is missing"),
            "-" => OutputSpec::new(OutputKind::Tar),
            path => OutputSpec {
                dest: Some(path.into()),
                ..OutputSpec::new(OutputKind::Local)
            },
        });
    }
    let mut fields = Vec::new();
    for field in split_csv(text)? {
        let (name, value) = split_pair(&field, "--output")?;
        fields.push((field_name(name), value.to_owned()));
    }
    build_output(fields).with_context(|| format!("--output `{text}`"))
}

/// Names of fields are in lower case, those of annotations as they are.
fn field_name(name: &str) -> String {
    let name = name.trim();
    match name.split_once('.') {
        Some((kind, name)) => format!("{}.{name}", kind.to_ascii_lowercase()),
        None => name.to_ascii_lowercase(),
    }
}

fn build_output(fields: Vec<(String, String)>) -> Result<OutputSpec> {
    let of_last = |name: &str| {
        let mut found = fields.iter().rev();
        let found = found.find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    };
    let mut output = of_type(of_last("type").context("type is missing")?)?;
    if let Some(parsed) = parse_compression(of_last("compression"), of_last("compression-level"))? {
        output.compression = parsed;
    }
    for (name, value) in &fields {
        apply_field(&mut output, name, value)?;
    }
    check(&output)?;
    Ok(output)
}

fn of_type(kind: &str) -> Result<OutputSpec> {
    Ok(match kind {
        "image" => OutputSpec::new(OutputKind::Image),
        "registry" => OutputSpec {
            push: true,
            store: false,
            ..OutputSpec::new(OutputKind::Image)
        },
        "oci" => OutputSpec::new(OutputKind::Oci),
        "docker" => OutputSpec::new(OutputKind::Docker),
        "tar" => OutputSpec::new(OutputKind::Tar),
        "local" => OutputSpec::new(OutputKind::Local),
        other => bail!("unknown type `{other}`: image, registry, oci, docker, tar, local"),
    })
}

fn apply_field(output: &mut OutputSpec, name: &str, value: &str) -> Result<()> {
    let flag = || parse_bool(value).with_context(|| name.to_owned());
    match (name, output.kind) {
        ("type", _) => {}
        ("dest" | "destination", OutputKind::Image) => bail!("an image has no dest"),
        ("dest" | "destination", _) => output.dest = (value != "-").then(|| PathBuf::from(value)),
        ("source-date-epoch", _) => {
            let seconds = value.parse();
            output.epoch_s = Some(seconds.with_context(|| format!("source-date-epoch `{value}`"))?);
        }
        ("platform-split", OutputKind::Local) => output.platform_split = Some(flag()?),
        (_, OutputKind::Tar | OutputKind::Local) => bail!(refused(name, output.kind)),
        ("push", OutputKind::Image) => output.push = flag()?,
        ("push-by-digest", OutputKind::Image) => output.push_by_digest = flag()?,
        ("name-canonical", OutputKind::Image) => output.name_canonical = flag()?,
        ("store", OutputKind::Image) => output.store = flag()?,
        ("unpack", OutputKind::Image) => output.unpack = flag()?,
        ("tar", OutputKind::Oci | OutputKind::Docker) => output.tar = flag()?,
        ("name", _) => {
            let names = value.split(',').filter(|name| !name.is_empty());
            output.names = names.map(parse_reference).collect::<Result<_>>()?;
        }
        ("compression" | "compression-level", _) => {}
        ("oci-mediatypes", _) => output.oci_media_types = flag()?,
        ("force-compression", _) => output.force_compression = flag()?,
        ("rewrite-timestamp", _) => output.rewrite_timestamp = Some(flag()?),
        (other, kind) => match annotation::parse_field(other, value) {
            Some(parsed) => output.annotations.push(parsed?),
            None => bail!(refused(other, kind)),
        },
    }
    Ok(())
}

fn refused(name: &str, kind: OutputKind) -> String {
    let kind = format!("{kind:?}").to_lowercase();
    format!("`{name}` is not supported for type={kind}")
}

fn check(output: &OutputSpec) -> Result<()> {
    match output.kind {
        OutputKind::Local if output.dest.is_none() => bail!("dest is missing"),
        OutputKind::Oci if !output.tar && output.dest.is_none() => bail!("dest is missing"),
        OutputKind::Docker if !output.tar => bail!("a docker archive is a tar"),
        _ if output.push_by_digest && !output.push => bail!("push-by-digest without push"),
        _ => Ok(()),
    }
}

/// How layers are compressed, where that is said.
pub(crate) fn parse_compression(
    kind: Option<&str>,
    level: Option<&str>,
) -> Result<Option<LayerCompression>> {
    let parse = |level: &str| {
        let parsed: Result<u32> = level
            .parse()
            .with_context(|| format!("compression-level `{level}`"));
        parsed
    };
    let level = level.map(parse).transpose()?;
    let in_range = |level: u32, range: std::ops::RangeInclusive<u32>| {
        if range.contains(&level) {
            Ok(level)
        } else {
            bail!(
                "compression-level {level} is not in {} to {}",
                range.start(),
                range.end()
            )
        }
    };
    Ok(Some(match kind {
        None if level.is_none() => return Ok(None),
        None | Some("gzip") => {
            LayerCompression::Gzip(in_range(level.unwrap_or(GZIP_LEVEL_DEFAULT), 0..=9)?)
        }
        // As the format's own library has it, 0 is the default.
        Some("zstd") => LayerCompression::Zstd(match level {
            None | Some(0) => ZSTD_LEVEL_DEFAULT,
            Some(level) => in_range(level, 0..=22)?,
        }),
        Some("uncompressed") if level.is_some() => {
            bail!("compression=uncompressed has no compression-level")
        }
        Some("uncompressed") => LayerCompression::Uncompressed,
        Some(other) => bail!("unknown compression `{other}`: gzip, zstd, uncompressed"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs() {
        let output =
            parse_output("type=oci,dest=out.tar,compression=zstd,compression-level=9").unwrap();
        assert_eq!(output.kind, OutputKind::Oci);
        assert_eq!(
            output.dest.as_deref(),
            Some(std::path::Path::new("out.tar"))
        );
        assert_eq!(output.compression, LayerCompression::Zstd(9));
        assert_eq!(parse_output("out").unwrap().kind, OutputKind::Local);
        assert_eq!(parse_output("-").unwrap().kind, OutputKind::Tar);
        let names = parse_output(r#"type=image,"name=a,b:2",push=true"#).unwrap();
        assert_eq!(names.names.len(), 2);
        assert!(names.push);
    }

    #[test]
    fn what_buildx_users_write() {
        let by_digest = "type=image,name=r.example/app,push-by-digest=true,name-canonical=true,\
                         push=true";
        let output = parse_output(by_digest).unwrap();
        assert!(output.push && output.push_by_digest && output.name_canonical);
        let dated = "type=registry,rewrite-timestamp=true,source-date-epoch=7,unpack=true";
        let output = parse_output(dated).unwrap();
        assert_eq!(
            (output.rewrite_timestamp, output.epoch_s),
            (Some(true), Some(7))
        );
        assert!(output.push && output.unpack && !output.store);
        let annotated = "type=oci,annotation.Org.A=b,Annotation-Index.c=d";
        let names: Vec<String> = parse_output(annotated)
            .unwrap()
            .annotations
            .into_iter()
            .map(|annotation| format!("{:?} {}", annotation.level, annotation.name))
            .collect();
        assert_eq!(names, ["Manifest Org.A", "Index c"]);
        let split = parse_output("type=local,dest=x,platform-split=false").unwrap();
        assert_eq!(split.platform_split, Some(false));
        let level = parse_output("type=oci,compression=zstd,compression-level=0").unwrap();
        assert_eq!(
            level.compression,
            LayerCompression::Zstd(ZSTD_LEVEL_DEFAULT)
        );
    }

    #[test]
    fn wrong_outputs_name_what_is_wrong() {
        for (text, part) in [
            ("type=nope", "unknown type `nope`"),
            ("dest=x", "type is missing"),
            ("type=local", "dest is missing"),
            ("type=image,dest=x", "an image has no dest"),
            ("type=oci,compression=lzma", "unknown compression `lzma`"),
            ("type=oci,compression-level=11", "not in 0 to 9"),
            (
                "type=oci,compression=uncompressed,compression-level=1",
                "has no compression-level",
            ),
            ("type=image,frobnicate=1", "`frobnicate` is not supported"),
            ("type=image,push=maybe", "push: `maybe` is neither"),
            ("type=tar,compression=gzip", "not supported for type=tar"),
            (
                "type=local,dest=x,push=true",
                "not supported for type=local",
            ),
            ("type=oci,unpack=true", "not supported for type=oci"),
            ("type=image,push-by-digest=true", "without push"),
            ("type=oci,annotation-layer.a=b", "unknown type `layer`"),
            ("type=oci,source-date-epoch=x", "source-date-epoch `x`"),
        ] {
            let error = format!("{:#}", parse_output(text).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
