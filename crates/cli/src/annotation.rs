//! Annotations in Buildx's words: `--annotation [TYPE[PLATFORM],…:]NAME=VALUE`, and as fields of
//! an output, `annotation-TYPE[PLATFORM].NAME=VALUE`.

use anyhow::{Context as _, Result, bail};
use longshore_engine::{Annotation, AnnotationLevel};
use longshore_oci::Platform;

/// One `--annotation`: the same text in each of the places that it names.
pub(crate) fn parse_flag(text: &str) -> Result<Vec<Annotation>> {
    let parse = || {
        let (key, value) = text.split_once('=').context("expected [TYPE:]NAME=VALUE")?;
        let (places, name) = match key.split_once(':') {
            Some((places, name)) => (places.split(',').collect(), name),
            None => (vec!["manifest"], key),
        };
        places
            .into_iter()
            .map(|place| annotation(place, name, value))
            .collect::<Result<_>>()
    };
    parse().with_context(|| format!("--annotation `{text}`"))
}

/// The annotation that a field of an output is; `None` where it is another field.
pub(crate) fn parse_field(field: &str, value: &str) -> Option<Result<Annotation>> {
    let rest = field.strip_prefix("annotation")?;
    let (place, name) = rest.split_once('.')?;
    let place = match place.strip_prefix('-') {
        Some(place) => place.to_owned(),
        // Without a type, also with a platform, it is the manifest's.
        None if place.is_empty() || place.starts_with('[') => format!("manifest{place}"),
        None => return None,
    };
    Some(annotation(&place, name, value))
}

/// `TYPE` or `TYPE[PLATFORM]`.
fn annotation(place: &str, name: &str, value: &str) -> Result<Annotation> {
    if name.is_empty() {
        bail!("a name is missing");
    }
    let (level, platform) = match place.split_once('[') {
        Some((level, rest)) => {
            let platform = rest
                .strip_suffix(']')
                .with_context(|| format!("`{place}`: a `]` is missing"))?;
            let platform: Platform = platform.parse().with_context(|| format!("`{place}`"))?;
            (level, Some(platform))
        }
        None => (place, None),
    };
    let level = match level {
        "manifest" => AnnotationLevel::Manifest,
        "manifest-descriptor" => AnnotationLevel::ManifestDescriptor,
        "index" => AnnotationLevel::Index,
        "index-descriptor" => AnnotationLevel::IndexDescriptor,
        other => {
            bail!("unknown type `{other}`: manifest, manifest-descriptor, index, index-descriptor")
        }
    };
    if platform.is_some()
        && matches!(
            level,
            AnnotationLevel::Index | AnnotationLevel::IndexDescriptor
        )
    {
        bail!("`{place}`: an index is not of one platform");
    }
    Ok(Annotation {
        level,
        platform,
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(annotation: &Annotation) -> String {
        let platform = annotation.platform.as_ref();
        let platform = platform.map_or_else(String::new, |platform| format!("[{platform}]"));
        let Annotation {
            level, name, value, ..
        } = annotation;
        format!("{level:?}{platform} {name}={value}")
    }

    #[test]
    fn flags() {
        let parsed =
            |text: &str| -> Vec<String> { parse_flag(text).unwrap().iter().map(shown).collect() };
        assert_eq!(parsed("a=b=c"), ["Manifest a=b=c"]);
        assert_eq!(parsed("org.example.a="), ["Manifest org.example.a="]);
        assert_eq!(
            parsed("index,manifest[linux/arm64]:a=b"),
            ["Index a=b", "Manifest[linux/arm64] a=b"]
        );
        assert_eq!(
            parsed("manifest-descriptor:a=x:y"),
            ["ManifestDescriptor a=x:y"]
        );
        for (text, part) in [
            ("a", "expected [TYPE:]NAME=VALUE"),
            ("layer:a=b", "unknown type `layer`"),
            ("manifest[linux/arm64:a=b", "`]` is missing"),
            ("index[linux/arm64]:a=b", "not of one platform"),
            ("manifest:=b", "a name is missing"),
        ] {
            let error = format!("{:#}", parse_flag(text).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn fields() {
        let parsed = |field: &str| parse_field(field, "v").map(|parsed| shown(&parsed.unwrap()));
        assert_eq!(parsed("annotation.a.b").unwrap(), "Manifest a.b=v");
        assert_eq!(
            parsed("annotation[linux/amd64].a").unwrap(),
            "Manifest[linux/amd64] a=v"
        );
        assert_eq!(
            parsed("annotation-index-descriptor.a").unwrap(),
            "IndexDescriptor a=v"
        );
        assert_eq!(parsed("annotations"), None);
        assert_eq!(parsed("push"), None);
        parse_field("annotation-layer.a", "v").unwrap().unwrap_err();
    }
}
