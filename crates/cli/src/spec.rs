//! Flags whose values have a grammar of their own: `type=oci,dest=x`, `id=token,src=f`,
//! `name:address`, `nofile=1024:2048`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use longshore_engine::{
    ContextSpec, Entitlements, GZIP_LEVEL_DEFAULT, LayerCompression, OutputKind, OutputSpec,
    SecretSource, Ulimit, ZSTD_LEVEL_DEFAULT,
};
use longshore_oci::Reference;

/// Splits one CSV record: commas separate, a field may be quoted with `"`.
pub(crate) fn split_csv(text: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                last(&mut fields).push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => last(&mut fields).push(other),
        }
    }
    if quoted {
        bail!("`{text}`: a quote is not closed");
    }
    Ok(fields)
}

fn last(fields: &mut [String]) -> &mut String {
    let at = fields.len() - 1;
    &mut fields[at]
}

/// `NAME=VALUE` with a name.
pub(crate) fn split_pair<'a>(text: &'a str, flag: &str) -> Result<(&'a str, &'a str)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name, value)),
        _ => bail!("{flag} `{text}`: expected NAME=VALUE"),
    }
}

/// `NAME=VALUE` or `NAME`, whose value then comes from `lookup`; without one there it is left out.
pub(crate) fn pairs_or_environment(
    specs: &[String],
    flag: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for spec in specs {
        match spec.split_once('=') {
            Some(("", _)) => bail!("{flag} `{spec}`: a name is missing"),
            Some((name, value)) => pairs.push((name.to_owned(), value.to_owned())),
            None if spec.is_empty() => bail!("{flag}: a name is missing"),
            None => pairs.extend(lookup(spec).map(|value| (spec.clone(), value))),
        }
    }
    Ok(pairs)
}

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
    let mut fields = BTreeMap::new();
    for field in split_csv(text)? {
        let (name, value) = split_pair(&field, "--output")?;
        fields.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    build_output(text, fields)
}

fn build_output(text: &str, mut fields: BTreeMap<String, String>) -> Result<OutputSpec> {
    let kind = fields
        .remove("type")
        .with_context(|| format!("--output `{text}`: type is missing"))?;
    let mut output = match kind.as_str() {
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
        other => bail!(
            "--output `{text}`: unknown type `{other}`: image, registry, oci, docker, tar, local"
        ),
    };
    let level = fields.remove("compression-level");
    let compression = fields.remove("compression");
    if let Some(parsed) = parse_compression(compression.as_deref(), level.as_deref())
        .with_context(|| format!("--output `{text}`"))?
    {
        output.compression = parsed;
    }
    for (name, value) in fields {
        apply_output_field(&mut output, &name, &value)
            .with_context(|| format!("--output `{text}`"))?;
    }
    check_destination(&output, text)?;
    Ok(output)
}

fn apply_output_field(output: &mut OutputSpec, name: &str, value: &str) -> Result<()> {
    match name {
        "dest" | "destination" => output.dest = (value != "-").then(|| PathBuf::from(value)),
        "name" => {
            output.names = value
                .split(',')
                .map(parse_reference)
                .collect::<Result<_>>()?;
        }
        "push" => output.push = parse_bool(value)?,
        "store" => output.store = parse_bool(value)?,
        "tar" => output.tar = parse_bool(value)?,
        "oci-mediatypes" => output.oci_media_types = parse_bool(value)?,
        "force-compression" => output.force_compression = parse_bool(value)?,
        other => bail!("`{other}` is not supported"),
    }
    Ok(())
}

fn check_destination(output: &OutputSpec, text: &str) -> Result<()> {
    match output.kind {
        OutputKind::Local if output.dest.is_none() => bail!("--output `{text}`: dest is missing"),
        OutputKind::Image if output.dest.is_some() => {
            bail!("--output `{text}`: an image has no dest")
        }
        OutputKind::Oci if !output.tar && output.dest.is_none() => {
            bail!("--output `{text}`: dest is missing")
        }
        OutputKind::Docker if !output.tar => bail!("--output `{text}`: a docker archive is a tar"),
        _ => Ok(()),
    }
}

pub(crate) fn parse_compression(
    kind: Option<&str>,
    level: Option<&str>,
) -> Result<Option<LayerCompression>> {
    let level: Option<u32> = level
        .map(|level| {
            level
                .parse()
                .with_context(|| format!("compression-level `{level}`"))
        })
        .transpose()?;
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
        Some("zstd") => {
            LayerCompression::Zstd(in_range(level.unwrap_or(ZSTD_LEVEL_DEFAULT), 1..=22)?)
        }
        Some("uncompressed") => LayerCompression::Uncompressed,
        Some(other) => bail!("unknown compression `{other}`: gzip, zstd, uncompressed"),
    }))
}

/// A boolean as Go's `strconv.ParseBool` reads it.
pub(crate) fn parse_bool(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => bail!("`{other}` is neither true nor false"),
    }
}

/// An image reference, normalised, with the name in the error.
pub(crate) fn parse_reference(text: &str) -> Result<Reference> {
    text.parse().with_context(|| format!("`{text}`"))
}

/// One `--secret`.
pub(crate) fn parse_secret(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<(String, SecretSource)> {
    let mut id = None;
    let mut source = None;
    let mut kind = None;
    for field in split_csv(text)? {
        let (name, value) = split_pair(&field, "--secret")?;
        match name {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => source = Some(SecretSource::File(value.into())),
            "env" => source = Some(secret_from_environment(value, &environment)?),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            _ => bail!("--secret `{text}`: unexpected `{field}`"),
        }
    }
    let id = id.with_context(|| format!("--secret `{text}`: id is missing"))?;
    let source = match (source, kind.as_deref()) {
        (Some(source), _) => source,
        (None, Some("file")) => SecretSource::File((&id).into()),
        // As Buildx: the variable of the same name, else the file.
        (None, _) => match environment(&id) {
            Some(value) => SecretSource::Value(value.into_bytes()),
            None => SecretSource::File((&id).into()),
        },
    };
    Ok((id, source))
}

fn secret_from_environment(
    name: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<SecretSource> {
    let value =
        environment(name).with_context(|| format!("--secret: the variable `{name}` is not set"))?;
    Ok(SecretSource::Value(value.into_bytes()))
}

/// One `--add-host`: `name:address` or `name=address`.
pub(crate) fn parse_host(text: &str) -> Result<(String, String)> {
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .with_context(|| format!("--add-host `{text}`: expected NAME:ADDRESS"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    address
        .parse::<std::net::IpAddr>()
        .with_context(|| format!("--add-host `{text}`: `{address}`"))?;
    Ok((name.to_owned(), address.to_owned()))
}

/// One `--ulimit`: `name=soft[:hard]`.
pub(crate) fn parse_ulimit(text: &str) -> Result<Ulimit> {
    let (name, limits) = split_pair(text, "--ulimit")?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| {
        text.parse::<i64>()
            .with_context(|| format!("--ulimit `{limits}`: `{text}`"))
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft > hard || soft == -1) {
        bail!("--ulimit `{text}`: the soft limit is above the hard one");
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// `--allow` values.
pub(crate) fn parse_entitlements(names: &[String]) -> Result<Entitlements> {
    let mut entitlements = Entitlements::default();
    for name in names {
        match name.as_str() {
            "network.host" => entitlements.network_host = true,
            "security.insecure" => entitlements.security_insecure = true,
            other => bail!("--allow `{other}`: network.host and security.insecure are known"),
        }
    }
    Ok(entitlements)
}

/// Where a `--build-context` (or the context itself) is.
pub(crate) fn parse_place(text: &str) -> Result<ContextSpec> {
    if let Some(image) = text.strip_prefix("docker-image://") {
        return Ok(ContextSpec::Image(
            parse_reference(image)?.with_default_tag(),
        ));
    }
    if let Some(layout) = text.strip_prefix("oci-layout://") {
        return Ok(ContextSpec::OciLayout(layout.to_owned()));
    }
    if is_git(text) {
        return Ok(ContextSpec::Git(text.to_owned()));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(ContextSpec::Http(text.to_owned()));
    }
    let path = PathBuf::from(text);
    let kind = std::fs::metadata(&path).with_context(|| format!("context `{text}`"))?;
    Ok(if kind.is_dir() {
        ContextSpec::Directory(path)
    } else {
        ContextSpec::Archive(path)
    })
}

/// Whether a context is a git repository's URL, by Docker's rules.
fn is_git(text: &str) -> bool {
    let scheme = ["git://", "ssh://", "git@", "git+", "github.com/"];
    if scheme.iter().any(|prefix| text.starts_with(prefix)) {
        return true;
    }
    let is_http = text.starts_with("http://") || text.starts_with("https://");
    let path = text.split(['#', '?']).next().unwrap_or_default();
    is_http && path.ends_with(".git")
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
    fn wrong_outputs_name_what_is_wrong() {
        for (text, part) in [
            ("type=nope", "unknown type `nope`"),
            ("dest=x", "type is missing"),
            ("type=local", "dest is missing"),
            ("type=oci,compression=lzma", "unknown compression `lzma`"),
            ("type=oci,compression-level=11", "not in 0 to 9"),
            ("type=image,frobnicate=1", "`frobnicate` is not supported"),
            ("type=image,push=maybe", "neither true nor false"),
        ] {
            let error = format!("{:#}", parse_output(text).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_hosts_and_limits() {
        let none = |_: &str| None;
        assert_eq!(
            parse_secret("id=a,src=f", none).unwrap(),
            ("a".into(), SecretSource::File("f".into()))
        );
        assert!(parse_secret("src=f", none).is_err());
        assert!(parse_secret("id=a,env=NOPE", none).is_err());
        assert_eq!(
            parse_host("a:10.0.0.1").unwrap(),
            ("a".into(), "10.0.0.1".into())
        );
        assert_eq!(parse_host("a:::1").unwrap(), ("a".into(), "::1".into()));
        assert!(parse_host("a:nope").is_err());
        assert_eq!(parse_ulimit("nofile=1:2").unwrap().hard, 2);
        assert!(parse_ulimit("nofile=3:2").is_err());
    }

    #[test]
    fn git_urls() {
        for yes in [
            "https://x/y.git",
            "https://x/y.git#main:sub",
            "git@x:y",
            "ssh://x/y",
            "github.com/a/b",
        ] {
            assert!(is_git(yes), "{yes}");
        }
        for no in ["https://x/y.tar.gz", "./y.git", "http://x/y"] {
            assert!(!is_git(no), "{no}");
        }
    }
}
