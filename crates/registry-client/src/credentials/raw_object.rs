//! A JSON object whose members keep their order and their exact text, so that a
//! file can be edited in one place and stay as it was in all others.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Members in file order, each value as its source text.
#[derive(Debug, Default)]
pub(super) struct RawObject(Vec<(String, Box<RawValue>)>);

impl RawObject {
    /// The last member of that name, which is the one JSON readers take.
    pub(super) fn member(&self, name: &str) -> Option<&RawValue> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_ref())
    }

    /// Replaces the member where it stands, or appends it.
    pub(super) fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().rev().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Removes the members whose name `matches`; tells whether there were any.
    pub(super) fn remove(&mut self, matches: impl Fn(&str) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|(key, _)| !matches(key));
        self.0.len() != before
    }

    /// The object's text, one member a line, indented by `depth` tabs as Docker does.
    pub(super) fn to_text(&self, depth: usize) -> String {
        if self.0.is_empty() {
            return "{}".to_owned();
        }
        let indent = "\t".repeat(depth + 1);
        let member = |(key, value): &(String, Box<RawValue>)| {
            let key = serde_json::Value::from(key.as_str());
            format!("{indent}{key}: {}", value.get())
        };
        let members: Vec<String> = self.0.iter().map(member).collect();
        format!("{{\n{}\n{}}}", members.join(",\n"), "\t".repeat(depth))
    }

    /// The object as a value of another object.
    pub(super) fn to_raw(&self, depth: usize) -> Result<Box<RawValue>, serde_json::Error> {
        RawValue::from_string(self.to_text(depth))
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = RawObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(RawObject(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_numbers_and_inner_layout() {
        let text = r#"{"z": 1.50e3, "a": {"k" :  [1,2]}, "big": 123456789012345678901234567890}"#;
        let mut object: RawObject = serde_json::from_str(text).unwrap();
        object.set("new", RawValue::from_string("true".to_owned()).unwrap());
        assert_eq!(
            object.to_text(0),
            "{\n\t\"z\": 1.50e3,\n\t\"a\": {\"k\" :  [1,2]},\n\t\"big\": \
             123456789012345678901234567890,\n\t\"new\": true\n}"
        );
    }
}
