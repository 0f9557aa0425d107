//! `RUN --device`: `name[,required[=bool]]`.

use crate::csv::{CsvError, split_fields};
use crate::instruction::DeviceRequest;
use crate::number::parse_bool;
use crate::span::Span;
use crate::suggest;

/// Why a device was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a comma-separated list.
    #[error("failed to parse csv devices: {0}")]
    Csv(#[source] CsvError),
    /// A second word that is no option.
    #[error("invalid field '{field}' must be a key=value pair")]
    NoValue {
        /// The field.
        field: String,
    },
    /// Two names.
    #[error("device name already set to {name}")]
    NamedTwice {
        /// The first name.
        name: String,
    },
    /// `required` takes a truth value.
    #[error("invalid value for {key}: {value}")]
    InvalidValue {
        /// `required`.
        key: String,
        /// What was written.
        value: String,
    },
    /// No such key.
    #[error("{}", suggest::with_suggestion(format!("unexpected key '{key}' in '{field}'"), *.suggestion))]
    UnknownKey {
        /// The key.
        key: String,
        /// The field.
        field: String,
        /// The nearest key.
        suggestion: Option<&'static str>,
    },
}

/// Reads a flag's value.
pub(crate) fn parse_device(value: &str, span: Span) -> Result<DeviceRequest, DeviceError> {
    let mut device = DeviceRequest {
        name: String::new(),
        required: false,
        span,
    };
    for field in split_fields(value).map_err(DeviceError::Csv)? {
        read_field(&mut device, field)?;
    }
    Ok(device)
}

fn read_field(device: &mut DeviceRequest, field: String) -> Result<(), DeviceError> {
    let (key, value) = match field.split_once('=') {
        Some((key, value)) => (key.to_lowercase(), Some(value)),
        None => (field.to_lowercase(), None),
    };
    match (key.as_str(), value) {
        ("required", None) => device.required = true,
        ("required", Some(value)) => {
            device.required = parse_bool(value).ok_or_else(|| DeviceError::InvalidValue {
                key,
                value: value.to_owned(),
            })?;
        }
        ("name", Some(_)) if !device.name.is_empty() => {
            return Err(DeviceError::NamedTwice {
                name: device.name.clone(),
            });
        }
        ("name", Some(value)) => value.clone_into(&mut device.name),
        // The first other field is the name, whatever it looks like: CDI names hold `=`.
        _ if device.name.is_empty() => device.name = field,
        (_, None) => return Err(DeviceError::NoValue { field }),
        (key, Some(_)) => {
            let suggestion = suggest::nearest(key, ["name", "required"]);
            return Err(DeviceError::UnknownKey {
                key: key.to_owned(),
                field: field.clone(),
                suggestion,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, name: &str, required: bool) {
        let device = parse_device(value, Span::default()).unwrap();
        assert_eq!(
            (device.name.as_str(), device.required),
            (name, required),
            "{value}"
        );
    }

    fn check_error(value: &str, expected: &str) {
        assert_eq!(
            parse_device(value, Span::default())
                .unwrap_err()
                .to_string(),
            expected
        );
    }

    #[test]
    fn the_name_comes_with_or_without_its_key() {
        check("vendor.com/gpu=0", "vendor.com/gpu=0", false);
        check("name=gpu,required", "gpu", true);
        check("required=true,gpu", "gpu", true);
        check("gpu,required=0", "gpu", false);
    }

    #[test]
    fn faults_are_told_in_buildkits_words() {
        check_error(
            "gpu,other",
            "invalid field 'other' must be a key=value pair",
        );
        check_error(
            "gpu,requird=1",
            "unexpected key 'requird' in 'requird=1' (did you mean required?)",
        );
        check_error("gpu,name=b", "device name already set to gpu");
        check_error("gpu,required=x", "invalid value for required: x");
        check_error("", "failed to parse csv devices: EOF");
    }
}
