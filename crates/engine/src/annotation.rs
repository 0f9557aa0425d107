//! Annotations of an image's documents, as BuildKit's exporters take them.
//!
//! ```text
//!  index.json of a layout, or a descriptor that is told ─ descriptor   index-descriptor
//!      index ─ annotations                                             index
//!          descriptor of each platform's manifest                      manifest-descriptor
//!              manifest ─ annotations                                  manifest
//! ```
//!
//! Of a single platform there is no index; what stands above is the manifest's descriptor.

use std::collections::BTreeMap;

use longshore_oci::Platform;

use crate::EngineError;

/// Free text about an image, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The document or descriptor that it stands in.
    pub level: AnnotationLevel,
    /// The platform whose manifest it is about; `None` is every one.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// Its text.
    pub value: String,
}

/// Where annotations stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationLevel {
    /// In a platform's manifest.
    Manifest,
    /// In the descriptor of a platform's manifest.
    ManifestDescriptor,
    /// In the index of several platforms.
    Index,
    /// In the descriptor of that index.
    IndexDescriptor,
}

/// The annotations of one level, of every platform and then of `platform`.
pub(crate) fn at_level<'a>(
    annotations: impl IntoIterator<Item = &'a Annotation>,
    level: AnnotationLevel,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let mut chosen: Vec<&Annotation> = annotations
        .into_iter()
        .filter(|annotation| annotation.level == level)
        .filter(|annotation| {
            let own = annotation.platform.as_ref();
            own.is_none() || own == platform
        })
        .collect();
    // What is said of one platform counts more than what is said of all.
    chosen.sort_by_key(|annotation| annotation.platform.is_some());
    chosen
        .into_iter()
        .map(|annotation| (annotation.name.clone(), annotation.value.clone()))
        .collect()
}

/// That every annotation has its place in an image of these platforms.
///
/// # Errors
/// When one is about a platform that is not built, about an index that is not made, or has
/// no place in Docker's documents.
pub(crate) fn check<'a>(
    annotations: impl IntoIterator<Item = &'a Annotation>,
    platforms: &[&Platform],
    has_index: bool,
    oci_media_types: bool,
) -> Result<(), EngineError> {
    for Annotation {
        level,
        platform,
        name,
        ..
    } in annotations
    {
        let is_index = matches!(
            level,
            AnnotationLevel::Index | AnnotationLevel::IndexDescriptor
        );
        let unknown = platform
            .as_ref()
            .filter(|platform| !platforms.contains(platform));
        let problem = match unknown {
            Some(platform) => format!("{platform} is not built"),
            None if is_index && !has_index => "an image of one platform has no index".to_owned(),
            None if !oci_media_types && *level != AnnotationLevel::Manifest => {
                "Docker's documents have none there: oci-mediatypes=false".to_owned()
            }
            None => continue,
        };
        return Err(EngineError::Invalid(format!(
            "the annotation `{name}`: {problem}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(level: AnnotationLevel, platform: Option<&str>, value: &str) -> Annotation {
        Annotation {
            level,
            platform: platform.map(|text| text.parse().unwrap()),
            name: "a".to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn a_platforms_own_annotation_wins() {
        let all = [
            annotation(AnnotationLevel::Manifest, Some("linux/arm64"), "arm"),
            annotation(AnnotationLevel::Manifest, None, "any"),
            annotation(AnnotationLevel::ManifestDescriptor, None, "other"),
        ];
        let of = |platform: &str| {
            let platform = platform.parse().unwrap();
            at_level(&all, AnnotationLevel::Manifest, Some(&platform))["a"].clone()
        };
        assert_eq!(of("linux/arm64"), "arm");
        assert_eq!(of("linux/amd64"), "any");
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let problem = |annotation: Annotation, has_index, oci| {
            let checked = check([&annotation], &[&amd64], has_index, oci);
            checked.map_err(|error| error.to_string()).err()
        };
        let index = || annotation(AnnotationLevel::Index, None, "");
        assert!(problem(index(), false, true).unwrap().contains("no index"));
        assert!(problem(index(), true, false).unwrap().contains("Docker"));
        assert_eq!(problem(index(), true, true), None);
        let arm = annotation(AnnotationLevel::Manifest, Some("linux/arm64"), "");
        assert!(
            problem(arm, true, true)
                .unwrap()
                .contains("linux/arm64 is not built")
        );
    }
}
