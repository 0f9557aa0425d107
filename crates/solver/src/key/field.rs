//! Fields of a key: a name, the digest of a value, and the value shortened to be shown.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::KEY_VERSION;
use crate::{CacheKey, ContentDigest};

/// The most characters that are kept of a value to be shown.
const SHOWN_CHARS_MAX: usize = 120;

/// What a key is made of, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyFields(pub Vec<Field>);

/// One thing that a key is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Which: `argv`, `env VERSION`, `mount /cache`, `input 0`.
    pub name: String,
    /// The digest of its value.
    pub digest: ContentDigest,
    /// Its value, shortened; empty where it was left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shown: String,
}

impl KeyFields {
    /// The fields without their values.
    pub fn redacted(&self) -> Self {
        let fields = self.0.iter().map(|field| Field {
            shown: String::new(),
            ..field.clone()
        });
        Self(fields.collect())
    }

    /// Pairs the fields of two lists by name (the nth of a name with the nth), and
    /// returns the pairs that differ.
    pub fn differences<'a>(&'a self, new: &'a Self) -> Vec<(Option<&'a Field>, Option<&'a Field>)> {
        let mut known = self.by_name();
        let mut pairs = Vec::new();
        for (name, field) in new.numbered() {
            match known.remove(&name) {
                Some(old) if old.digest == field.digest => {}
                old => pairs.push((old, Some(field))),
            }
        }
        let gone = self.numbered().filter(|(name, _)| known.contains_key(name));
        pairs.extend(gone.map(|(_, field)| (Some(field), None)));
        pairs
    }

    /// Shows something else of a field than its value; the key stays what it is.
    pub(super) fn show(&mut self, name: &str, text: &str) {
        let mut value = Value::new();
        value.show(text);
        if let Some(field) = self.0.iter_mut().find(|field| field.name == name) {
            field.shown = value.shown;
        }
    }

    pub(super) fn push(&mut self, name: impl Into<String>, value: Value) {
        self.0.push(Field {
            name: name.into(),
            digest: value.digest(),
            shown: value.shown,
        });
    }

    pub(super) fn key(&self, domain: &str) -> CacheKey {
        let mut value = Value::new();
        value.tag("longshore key").tag(domain).number(KEY_VERSION);
        value.length(self.0.len());
        for field in &self.0 {
            value.text_part(&field.name).bytes(&field.digest.0);
        }
        CacheKey(value.digest().0)
    }

    fn by_name(&self) -> HashMap<(&str, usize), &Field> {
        self.numbered().collect()
    }

    /// Each field with how many of its name stand before it.
    fn numbered(&self) -> impl Iterator<Item = ((&str, usize), &Field)> {
        let mut counts = HashMap::<&str, usize>::new();
        self.0.iter().map(move |field| {
            let count = counts.entry(&field.name).or_default();
            *count += 1;
            ((field.name.as_str(), *count), field)
        })
    }
}

/// A value on its way into a key: every part is hashed with its length, so that no two
/// lists of parts look the same.
pub(crate) struct Value {
    hasher: blake3::Hasher,
    shown: String,
}

impl Value {
    pub(crate) fn new() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            shown: String::new(),
        }
    }

    /// A value that is one text.
    pub(crate) fn text(text: &str) -> Self {
        let mut value = Self::new();
        value.text_part(text).show(text);
        value
    }

    /// A value that is a list of texts.
    pub(crate) fn texts<'a>(texts: impl ExactSizeIterator<Item = &'a str> + Clone) -> Self {
        let mut value = Self::new();
        value.text_list(texts.clone());
        value.show(&texts.collect::<Vec<_>>().join(" "));
        value
    }

    /// Which of several kinds of value this is.
    pub(crate) fn tag(&mut self, tag: &str) -> &mut Self {
        self.text_part(tag)
    }

    pub(crate) fn text_part(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn text_list<'a>(
        &mut self,
        texts: impl ExactSizeIterator<Item = &'a str>,
    ) -> &mut Self {
        self.length(texts.len());
        for text in texts {
            self.text_part(text);
        }
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.length(bytes.len());
        self.hasher.update(bytes);
        self
    }

    pub(crate) fn length(&mut self, length: usize) -> &mut Self {
        self.number(length as u64)
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.hasher.update(&number.to_le_bytes());
        self
    }

    pub(crate) fn signed(&mut self, number: i64) -> &mut Self {
        self.hasher.update(&number.to_le_bytes());
        self
    }

    pub(crate) fn flag(&mut self, flag: bool) -> &mut Self {
        self.number(flag.into())
    }

    pub(crate) fn optional<V>(
        &mut self,
        value: Option<V>,
        part: impl FnOnce(&mut Self, V) -> &mut Self,
    ) -> &mut Self {
        self.flag(value.is_some());
        match value {
            Some(value) => part(self, value),
            None => self,
        }
    }

    /// What is shown for the value: printable, on one line, shortened. A long one ends
    /// with a mark of the whole, so that two that begin alike still look different.
    pub(crate) fn show(&mut self, text: &str) -> &mut Self {
        let mut shown: String = text
            .chars()
            .take(SHOWN_CHARS_MAX)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
            let mark = ContentDigest::from(blake3::hash(text.as_bytes())).short();
            shown.push_str("… #");
            shown.push_str(&mark);
        }
        self.shown = shown;
        self
    }

    pub(crate) fn digest(&self) -> ContentDigest {
        self.hasher.finalize().into()
    }
}
