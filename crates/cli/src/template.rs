//! The part of Go's templates that `--format` is used with: `{{.Field.Sub}}`,
//! `{{json .Field}}`, `{{upper .Field}}`, `{{lower .Field}}`, and text between them.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Field {
        path: Vec<String>,
        function: Function,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Plain,
    Json,
    Upper,
    Lower,
}

impl Template {
    /// Parses `text`; `\t` and `\n` stand for a tab and a line end.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            push_text(&mut parts, &rest[..at]);
            let after = &rest[at + 2..];
            let end = after
                .find("}}")
                .with_context(|| format!("template `{text}`: `{{{{` is not closed"))?;
            parts.push(
                parse_action(after[..end].trim()).with_context(|| format!("template `{text}`"))?,
            );
            rest = &after[end + 2..];
        }
        push_text(&mut parts, rest);
        Ok(Self(parts))
    }

    /// Fills in the fields of `value`.
    pub(crate) fn render(&self, value: &Value) -> Result<String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field { path, function } => {
                    out.push_str(&apply(*function, lookup(value, path)?)?);
                }
            }
        }
        Ok(out)
    }

    /// The first field of each action, as a table's heading.
    pub(crate) fn headings(&self) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Field { path, .. } => path
                    .last()
                    .map(|name| name.to_uppercase())
                    .unwrap_or_default(),
            })
            .collect()
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.replace("\\t", "\t").replace("\\n", "\n")));
    }
}

fn parse_action(action: &str) -> Result<Part> {
    let (function, field) = match action.split_once(char::is_whitespace) {
        None => (Function::Plain, action),
        Some(("json", field)) => (Function::Json, field.trim()),
        Some(("upper", field)) => (Function::Upper, field.trim()),
        Some(("lower", field)) => (Function::Lower, field.trim()),
        Some((name, _)) => bail!("`{name}` is not supported: json, upper and lower are"),
    };
    let Some(path) = field.strip_prefix('.') else {
        bail!("`{field}` is not a field: it starts with a dot");
    };
    let path = path
        .split('.')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(Part::Field { path, function })
}

fn lookup<'a>(value: &'a Value, path: &[String]) -> Result<&'a Value> {
    let mut at = value;
    for name in path {
        at = match at {
            Value::Object(fields) => fields.get(name).with_context(|| {
                let known: Vec<&str> = fields.keys().map(String::as_str).collect();
                format!(
                    "there is no field `{name}`; there are: {}",
                    known.join(", ")
                )
            })?,
            // A field of nothing is nothing, as Go's nil maps have it.
            Value::Null => at,
            _ => bail!("`{name}` is asked of a value that has no fields"),
        };
    }
    Ok(at)
}

fn apply(function: Function, value: &Value) -> Result<String> {
    Ok(match function {
        Function::Json => serde_json::to_string(value)?,
        Function::Plain => plain(value),
        Function::Upper => plain(value).to_uppercase(),
        Function::Lower => plain(value).to_lowercase(),
    })
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(plain).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", plain(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String> {
        let value = serde_json::json!({"ID": "x", "Config": {"Env": ["A=1", "B=2"], "Cmd": null}});
        Template::parse(template)?.render(&value)
    }

    #[test]
    fn fields_functions_and_text() {
        assert_eq!(
            render("{{.ID}}\\t{{ json .Config.Env }}").unwrap(),
            "x\t[\"A=1\",\"B=2\"]"
        );
        assert_eq!(
            render("{{.Config.Env}} {{upper .ID}}").unwrap(),
            "[A=1 B=2] X"
        );
        assert_eq!(render("{{.Config.Cmd}}").unwrap(), "");
    }

    #[test]
    fn wrong_templates_name_what_is_wrong() {
        assert!(
            format!("{:#}", render("{{.Nope}}").unwrap_err())
                .contains("no field `Nope`; there are: Config, ID")
        );
        assert!(format!("{:#}", render("{{.ID").unwrap_err()).contains("not closed"));
        assert!(
            format!("{:#}", render("{{range .X}}").unwrap_err())
                .contains("`range` is not supported")
        );
    }
}
