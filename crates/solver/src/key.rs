//! What a step is named by.

use serde::{Deserialize, Serialize};

use crate::ContentDigest;

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
}
