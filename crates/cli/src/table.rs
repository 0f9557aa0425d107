//! Tables with aligned columns, and the ways a list is printed.

use anyhow::Result;
use serde_json::Value;

use crate::template::Template;

/// Prints `rows` as `--format` asks: JSON a line each, a template a line each, or a
/// table with the named columns.
pub(crate) fn print_rows(
    rows: &[Value],
    columns: &[(&str, &str)],
    format: Option<&str>,
) -> Result<()> {
    match format {
        None | Some("table") => print_table(rows, columns),
        Some("json") => {
            for row in rows {
                out(&serde_json::to_string(row)?);
            }
        }
        Some(text) => print_template(rows, text)?,
    }
    Ok(())
}

fn print_template(rows: &[Value], text: &str) -> Result<()> {
    let (with_heading, text) = text
        .strip_prefix("table ")
        .map_or((false, text), |text| (true, text));
    let template = Template::parse(text)?;
    let mut lines: Vec<Vec<String>> = Vec::new();
    if with_heading {
        lines.push(template.headings().split('\t').map(str::to_owned).collect());
    }
    for row in rows {
        lines.push(
            template
                .render(row)?
                .split('\t')
                .map(str::to_owned)
                .collect(),
        );
    }
    if with_heading {
        print_aligned(&lines);
    } else {
        lines.iter().for_each(|line| out(&line.join("\t")));
    }
    Ok(())
}

fn print_table(rows: &[Value], columns: &[(&str, &str)]) {
    let mut lines = vec![
        columns
            .iter()
            .map(|(heading, _)| (*heading).to_owned())
            .collect::<Vec<_>>(),
    ];
    for row in rows {
        lines.push(
            columns
                .iter()
                .map(|(_, field)| text_of(&row[*field]))
                .collect(),
        );
    }
    print_aligned(&lines);
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(
        || {
            if value.is_null() {
                String::new()
            } else {
                value.to_string()
            }
        },
        str::to_owned,
    )
}

fn print_aligned(lines: &[Vec<String>]) {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|at| {
            lines
                .iter()
                .filter_map(|line| line.get(at))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for line in lines {
        let mut text = String::new();
        for (at, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if at + 1 < line.len() {
                let padding = widths[at].saturating_sub(cell.chars().count()) + 3;
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        out(&text);
    }
}

/// Writes a result line to standard output; a reader that went away ends the program
/// quietly, as it does for other tools.
#[expect(
    clippy::exit,
    reason = "a closed pipe ends the program as SIGPIPE would"
)]
pub(crate) fn out(line: &str) {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{line}")
        && error.kind() == std::io::ErrorKind::BrokenPipe
    {
        std::process::exit(141);
    }
}
