//! Diagnostics as text for people and as JSON for tools.
//!
//! ```text
//! error[unknown-flag]: unknown flag: --form (did you mean from?)
//!  --> Dockerfile:2:6
//!   |
//! 2 | COPY --form=base a b
//!   |      ^^^^^^^^^^^
//!   |
//!   = help: COPY takes --chmod, --chown, --exclude, --from, --link, --parents
//! ```
//!
//! What stands in the Dockerfile is printed with control characters made harmless. A diagnostic
//! costs time in the lines it shows, not in the size of the file.

use annotate_snippets::{Annotation, AnnotationKind, Element, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, Severity};
use crate::span::{LineIndex, Span};

/// Places further apart than this many lines are shown as excerpts of their own.
const EXCERPT_GAP_LINES: u32 = 6;

/// Nobody reads more, and a file made for the purpose can have a million.
pub const DIAGNOSTICS_SHOWN_MAX: usize = 100;

/// How text is rendered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// Plain ASCII.
    #[default]
    Never,
    /// With terminal colours.
    Always,
}

/// A file whose diagnostics are rendered.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    path: &'a str,
    /// The path as it may be printed.
    shown_path: String,
    text: &'a str,
    index: LineIndex,
}

impl<'a> Source<'a> {
    /// `text` must be the text the spans point into: [`Parsed::text`](crate::Parsed::text).
    #[must_use]
    pub fn new(path: &'a str, text: &'a str) -> Self {
        let shown_path = path.replace(char::is_control, "\u{fffd}");
        Self {
            path,
            shown_path,
            text,
            index: LineIndex::new(text),
        }
    }

    /// The diagnostic with an excerpt, no line break at the end.
    #[must_use]
    pub fn text(&self, diagnostic: &Diagnostic, color: Color) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.kind.code());
        let mut group = Group::with_title(title).elements(self.excerpts(diagnostic));
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        if let Some(url) = diagnostic
            .rule()
            .map(|rule| rule.url())
            .filter(|url| !url.is_empty())
        {
            group = group.element(Level::NOTE.message(format!("see {url}")));
        }
        renderer(color).render(&[group])
    }

    /// All diagnostics as text, an empty line between them; no more than
    /// [`DIAGNOSTICS_SHOWN_MAX`].
    #[must_use]
    pub fn text_of_all(&self, diagnostics: &[Diagnostic], color: Color) -> String {
        let shown = &diagnostics[..diagnostics.len().min(DIAGNOSTICS_SHOWN_MAX)];
        let mut texts: Vec<_> = shown
            .iter()
            .map(|found| self.text(found, color) + "\n")
            .collect();
        if shown.len() < diagnostics.len() {
            texts.push(format!("… and {} more\n", diagnostics.len() - shown.len()));
        }
        texts.join("\n")
    }

    /// The diagnostic as JSON. Lines and columns count from 1, columns in characters; spans are
    /// bytes.
    #[must_use]
    pub fn json(&self, diagnostic: &Diagnostic) -> Value {
        let rule = diagnostic.rule();
        let labels = diagnostic.labels.iter().map(|label| {
            let mut place = self.place(label.span);
            place["text"] = json!(label.text);
            place
        });
        let mut out = self.place(diagnostic.span);
        out["severity"] = json!(diagnostic.severity);
        out["code"] = json!(diagnostic.kind.code());
        out["message"] = json!(diagnostic.message);
        out["path"] = json!(self.path);
        out["lines"] = json!([diagnostic.lines.start(), diagnostic.lines.end()]);
        out["labels"] = labels.collect();
        out["help"] = json!(diagnostic.help);
        out["rule"] = json!(rule);
        out["description"] = json!(rule.map(|rule| rule.description()));
        out["url"] = json!(rule.map(|rule| rule.url()));
        out
    }

    /// All diagnostics as a JSON array.
    #[must_use]
    pub fn json_of_all(&self, diagnostics: &[Diagnostic]) -> Value {
        diagnostics
            .iter()
            .map(|diagnostic| self.json(diagnostic))
            .collect()
    }

    fn place(&self, span: Span) -> Value {
        let (line, column) = self.index.position(self.text, span.start);
        let (end_line, end_column) = self.index.position(self.text, span.end);
        json!({
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
            "span": span,
        })
    }

    fn excerpts<'d>(&'d self, diagnostic: &'d Diagnostic) -> Vec<Element<'d>> {
        let primary = Mark {
            span: self.clip(diagnostic.span),
            text: None,
        };
        let mut marks = vec![primary.clone()];
        marks.extend(diagnostic.labels.iter().map(|label| Mark {
            span: self.clip(label.span),
            text: Some(label.text.as_str()),
        }));
        let mut clusters = self.clusters(marks);
        // The excerpt of the fault itself comes first.
        clusters.sort_by_key(|cluster| !cluster.contains(&primary));
        let excerpts = clusters
            .iter()
            .map(|cluster| self.excerpt(cluster, &primary).into());
        excerpts.collect()
    }

    /// Marks in groups whose lines are near each other.
    fn clusters<'d>(&self, mut marks: Vec<Mark<'d>>) -> Vec<Vec<Mark<'d>>> {
        marks.sort_by_key(|mark| mark.span);
        let mut clusters: Vec<Vec<Mark<'d>>> = Vec::new();
        let mut last_line = 0;
        for mark in marks {
            let line = self.index.line(mark.span.start);
            match clusters.last_mut() {
                Some(cluster) if line - last_line <= EXCERPT_GAP_LINES => cluster.push(mark),
                _ => clusters.push(vec![mark]),
            }
            last_line = line;
        }
        clusters
    }

    fn excerpt<'d>(
        &'d self,
        marks: &[Mark<'d>],
        primary: &Mark<'d>,
    ) -> Snippet<'d, Annotation<'d>> {
        let starts = marks.iter().map(|mark| self.index.line(mark.span.start));
        let first = starts.clone().min().unwrap_or(1);
        let last = starts.max().unwrap_or(1);
        let start = self.index.line_span(self.text, first).start;
        let end = self.index.line_span(self.text, last).end.max(start);
        let annotations = marks.iter().map(|mark| {
            let kind = if mark == primary {
                AnnotationKind::Primary
            } else {
                AnnotationKind::Context
            };
            kind.span(mark.span.start - start..mark.span.end - start)
                .label(mark.text)
        });
        Snippet::source(&self.text[start..end])
            .path(&self.shown_path)
            .line_start(first as usize)
            .annotations(annotations)
    }

    /// The part of a span on its first line: an instruction of many lines is not underlined whole.
    fn clip(&self, span: Span) -> Span {
        let line = self.index.line_span(self.text, self.index.line(span.start));
        let start = span.start.min(line.end);
        Span::new(start, span.end.clamp(start, line.end))
    }
}

/// A place in an excerpt.
#[derive(Clone, PartialEq)]
struct Mark<'d> {
    span: Span,
    text: Option<&'d str>,
}

fn renderer(color: Color) -> Renderer {
    match color {
        Color::Never => Renderer::plain(),
        Color::Always => Renderer::styled(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        let parsed = parse(text);
        let source = Source::new("Dockerfile", &parsed.text);
        expected.assert_eq(&source.text_of_all(&parsed.diagnostics, Color::Never));
    }

    #[test]
    fn a_fault_is_shown_with_its_line() {
        check(
            "FROM a\nCOPY --form=base a b\n",
            expect![[r#"
                error[unknown-flag]: unknown flag: --form (did you mean from?)
                 --> Dockerfile:2:6
                  |
                2 | COPY --form=base a b
                  |      ^^^^^^^^^^^
                  |
                  = help: COPY takes --chmod, --chown, --exclude, --from, --link, --parents
            "#]],
        );
    }

    #[test]
    fn far_places_are_excerpts_of_their_own() {
        let filler = "RUN x\n".repeat(20);
        check(
            &format!("FROM a AS b\n{filler}FROM c AS b\n"),
            expect![[r#"
                warning[DuplicateStageName]: Duplicate stage name "b", stage names should be unique
                  --> Dockerfile:22:11
                   |
                22 | FROM c AS b
                   |           ^
                   |
                  ::: Dockerfile:1:11
                   |
                 1 | FROM a AS b
                   |           - first used here
                   |
                   = help: choose another name
                   = note: see https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/
            "#]],
        );
    }

    #[test]
    fn a_flood_is_cut_short() {
        let parsed = parse(&"RUNN x\n".repeat(1_000));
        let text =
            Source::new("Dockerfile", &parsed.text).text_of_all(&parsed.diagnostics, Color::Never);
        assert_eq!(
            text.matches("unknown instruction").count(),
            DIAGNOSTICS_SHOWN_MAX
        );
        assert!(text.ends_with("… and 900 more\n"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let parsed = parse("FROM a\n\u{1b}[31mRUN\u{7} x\n");
        let text =
            Source::new("a\u{1b}b", &parsed.text).text_of_all(&parsed.diagnostics, Color::Never);
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }

    #[test]
    fn tools_get_lines_and_columns() {
        let parsed = parse("FROM a\nRUN --network=é x\n");
        let json = Source::new("Dockerfile", &parsed.text).json_of_all(&parsed.diagnostics);
        expect![[r#"
            [
              {
                "code": "invalid-network",
                "column": 5,
                "description": null,
                "end_column": 16,
                "end_line": 2,
                "help": "write `default`, `none` or `host`",
                "labels": [],
                "line": 2,
                "lines": [
                  2,
                  2
                ],
                "message": "invalid network mode \"é\"",
                "path": "Dockerfile",
                "rule": null,
                "severity": "error",
                "span": {
                  "end": 23,
                  "start": 11
                },
                "url": null
              }
            ]"#]]
        .assert_eq(&serde_json::to_string_pretty(&json).unwrap());
    }
}
