//! Flags whose values have a grammar of their own: `id=token,src=f`, `name:address`,
//! `nofile=1024:2048`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use longshore_engine::{ContextSpec, Entitlements, Resource, SecretSource, Ulimit};
use longshore_oci::Reference;
use longshore_runner::HostAddress;

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

/// One `--add-host`: `name:address` or `name=address`; the address may be `host-gateway`.
pub(crate) fn parse_host(text: &str) -> Result<(String, String)> {
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .with_context(|| format!("--add-host `{text}`: expected NAME:ADDRESS"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    address
        .parse::<HostAddress>()
        .with_context(|| format!("--add-host `{text}`: `{address}`"))?;
    Ok((name.to_owned(), address.to_owned()))
}

/// One `--ulimit`: `name=soft[:hard]`.
pub(crate) fn parse_ulimit(text: &str) -> Result<Ulimit> {
    let (name, limits) = split_pair(text, "--ulimit")?;
    name.parse::<Resource>()
        .with_context(|| format!("--ulimit `{text}`"))?;
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

/// Whether a context is on another machine.
pub(crate) fn is_remote(text: &str) -> bool {
    is_git(text) || text.starts_with("http://") || text.starts_with("https://")
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
        let unknown = format!("{:#}", parse_ulimit("nofle=3").unwrap_err());
        assert_eq!(
            unknown,
            "--ulimit `nofle=3`: unknown resource limit `nofle`"
        );
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
