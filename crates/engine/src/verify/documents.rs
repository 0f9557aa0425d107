//! What differs between two JSON documents: pure, field by field.

use serde::Serialize;
use serde_json::Value;

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Where it is: `config.Env[1]`.
    pub field: String,
    /// What it is in the first; nothing where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Value>,
    /// What it is in the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<Value>,
}

impl FieldDifference {
    /// Whether it says when something was made.
    pub(super) fn is_time(&self) -> bool {
        self.field == "created" || self.field.ends_with("].created")
    }

    /// Whether it names layers, which are told of themselves.
    pub(super) fn names_layers(&self) -> bool {
        self.field.starts_with("rootfs.diff_ids")
    }
}

/// The fields that differ, sorted by name as far as the documents are.
pub(super) fn differences(first: &Value, second: &Value) -> Vec<FieldDifference> {
    let mut found = Vec::new();
    compare(String::new(), Some(first), Some(second), &mut found);
    found
}

fn compare(
    field: String,
    first: Option<&Value>,
    second: Option<&Value>,
    found: &mut Vec<FieldDifference>,
) {
    match (first, second) {
        (Some(Value::Object(ours)), Some(Value::Object(theirs))) => {
            let further = theirs.keys().filter(|key| !ours.contains_key(*key));
            for key in ours.keys().chain(further) {
                let name = match field.as_str() {
                    "" => key.clone(),
                    above => format!("{above}.{key}"),
                };
                compare(name, ours.get(key), theirs.get(key), found);
            }
        }
        (Some(Value::Array(ours)), Some(Value::Array(theirs))) => {
            for at in 0..ours.len().max(theirs.len()) {
                let name = format!("{field}[{at}]");
                compare(name, ours.get(at), theirs.get(at), found);
            }
        }
        (first, second) if first == second => {}
        (first, second) => found.push(FieldDifference {
            field,
            first: first.cloned(),
            second: second.cloned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_named_where_they_differ_and_where_one_lacks_them() {
        let first =
            json!({"created": "1", "config": {"Env": ["A=1", "B=1"], "User": "u"}, "os": "l"});
        let second = json!({"created": "2", "config": {"Env": ["A=1", "B=2", "C=3"]}, "os": "l"});
        let found = differences(&first, &second);
        let names: Vec<&str> = found.iter().map(|field| field.field.as_str()).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            ["config.Env[1]", "config.Env[2]", "config.User", "created"]
        );
        let user = found
            .iter()
            .find(|field| field.field == "config.User")
            .unwrap();
        assert_eq!((&user.first, &user.second), (&Some(json!("u")), &None));
        assert!(found.iter().any(FieldDifference::is_time));
        assert!(differences(&first, &first).is_empty());
    }
}
