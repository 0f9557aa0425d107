//! One line of comma-separated values, as `--mount` and `--device` are written.

/// Why a line is no list. The texts are those of Go's csv reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// Nothing there.
    #[error("EOF")]
    Empty,
    /// A quote in a field that does not start with one.
    #[error("parse error on line 1, column {column}: bare \" in non-quoted-field")]
    BareQuote {
        /// Byte from 1.
        column: usize,
    },
    /// A quoted field without an end, or with something after it.
    #[error("parse error on line 1, column {column}: extraneous or missing \" in quoted-field")]
    Quote {
        /// Byte from 1.
        column: usize,
    },
}

/// Splits a line at its commas. A field may be quoted; `""` in it is a quote.
pub(crate) fn split_fields(line: &str) -> Result<Vec<String>, CsvError> {
    let line = line
        .strip_suffix('\n')
        .map_or(line, |rest| rest.strip_suffix('\r').unwrap_or(rest));
    if line.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let (field, end) = match line[at..].strip_prefix('"') {
            Some(_) => quoted_field(line, at + 1)?,
            None => bare_field(line, at)?,
        };
        fields.push(field);
        if end == line.len() {
            return Ok(fields);
        }
        at = end + 1;
    }
}

/// Reads up to the next comma; answers the field and where it ends.
fn bare_field(line: &str, start: usize) -> Result<(String, usize), CsvError> {
    let end = line[start..].find(',').map_or(line.len(), |at| start + at);
    match line[start..end].find('"') {
        Some(at) => Err(CsvError::BareQuote {
            column: start + at + 1,
        }),
        None => Ok((line[start..end].to_owned(), end)),
    }
}

/// Reads from after the opening quote; answers the field and where the comma or the end is.
fn quoted_field(line: &str, start: usize) -> Result<(String, usize), CsvError> {
    let mut field = String::new();
    let mut at = start;
    loop {
        let Some(length) = line[at..].find('"') else {
            return Err(CsvError::Quote { column: at + 1 });
        };
        field.push_str(&line[at..at + length]);
        at += length + 1;
        match line.as_bytes().get(at) {
            Some(b'"') => {
                field.push('"');
                at += 1;
            }
            Some(b',') | None => return Ok((field, at)),
            Some(_) => return Err(CsvError::Quote { column: at }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[&str]) {
        assert_eq!(split_fields(line).unwrap(), expected, "{line}");
    }

    #[test]
    fn splits_at_commas_outside_quotes() {
        check("a,b", &["a", "b"]);
        check("a,", &["a", ""]);
        check(",", &["", ""]);
        check("\"a,\"\"b\"\"\",c", &["a,\"b\"", "c"]);
        check("\"\"", &[""]);
        check("a\r\n", &["a"]);
    }

    #[test]
    fn names_the_column_of_a_stray_quote() {
        assert_eq!(
            split_fields("a,b\"c"),
            Err(CsvError::BareQuote { column: 4 })
        );
        assert_eq!(split_fields("\"a\"b"), Err(CsvError::Quote { column: 3 }));
        assert_eq!(split_fields("\"ab"), Err(CsvError::Quote { column: 2 }));
        assert_eq!(split_fields(""), Err(CsvError::Empty));
    }
}
