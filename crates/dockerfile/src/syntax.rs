//! Logical lines to nodes: keyword, flags, arguments, heredocs, not yet typed.
//!
//! This is the layer BuildKit's `parser` package has; a node holds what its `Node` holds, so that
//! both can be compared, and spans besides. Every logical line gives a node, known or not.

use std::ops::{Range, RangeInclusive};

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::directive::Escape;
use crate::heredoc::{Heredoc, words_in_line};
use crate::instruction::JsonFault;
use crate::json::{self, parse_strings};
use crate::lines::{Lines, LogicalLine};
use crate::quote::quote;
use crate::span::{Span, Spanned};
use crate::words::{Word, is_separator, split_blank, split_first, split_flags, split_quoted, trim};

/// `ONBUILD ONBUILD …` deeper than this is not looked into; one level is already refused later.
const TRIGGER_DEPTH_MAX: usize = 8;

/// An instruction as cut into words.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The instruction's name as written. Empty if a line is nothing but a continuation.
    pub keyword: Spanned<String>,
    /// Flags with their quotes removed, in order.
    pub flags: Vec<Spanned<String>>,
    /// Arguments as the instruction splits them. `ENV` and `LABEL` give three for each pair: key,
    /// value, and `=` or nothing. `ONBUILD` gives the trigger's name and arguments.
    pub arguments: Vec<Spanned<String>>,
    /// Whether the arguments were given as a JSON array.
    pub is_json: bool,
    /// The instruction inside an `ONBUILD`.
    pub trigger: Option<Box<Self>>,
    /// Heredocs in order.
    pub heredocs: Vec<Heredoc>,
    /// The logical line as joined, blanks at its end included.
    pub original: String,
    /// Texts of the comments above.
    pub comments: Vec<String>,
    /// From the keyword to the end of the logical line, heredocs left out.
    pub header: Span,
    /// From the keyword to the end, heredocs included.
    pub span: Span,
    /// Physical lines from 1, heredocs included.
    pub lines: RangeInclusive<u32>,
    /// The first empty line among its continuations, and the last line before its heredocs.
    pub(crate) empty_continuation: Option<(Span, u32)>,
    /// Whether its arguments have a fault that keeps it from being typed.
    pub(crate) is_broken: bool,
    /// Why an argument that looks like a JSON array is none.
    pub(crate) json_fault: Option<JsonFault>,
}

impl Node {
    /// The keyword in lower case.
    pub(crate) fn name(&self) -> String {
        self.keyword.to_lowercase()
    }

    /// Whether heredoc words in it are heredocs.
    fn takes_heredocs(&self) -> bool {
        let node = match &self.trigger {
            Some(trigger) if self.name() == "onbuild" => trigger,
            _ => self,
        };
        matches!(node.name().as_str(), "add" | "copy" | "run") && !node.is_json
    }
}

/// Reads the next instruction; faults in its words are pushed and mark it broken.
pub(crate) fn next_node(lines: &mut Lines<'_>, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    let mut first_token = lines.tokens.len();
    let line = lines.next_logical(diagnostics)?;
    // Comments before the instruction are among the new tokens; that does no harm.
    first_token = first_token.min(lines.tokens.len());
    let mut splitter = Splitter {
        line: &line,
        escape: lines.escape,
        faults: Vec::new(),
    };
    let mut node = splitter.node(0..line.text.len(), 0);
    let faults = splitter.faults;
    lines.mark_keyword(first_token, node.keyword.span);
    node.is_broken = !faults.is_empty();
    node.comments.clone_from(&line.comments);
    node.empty_continuation = line.empty_continuation.map(|span| (span, line.last));
    diagnostics.extend(faults);
    if node.takes_heredocs() && line.text.contains("<<") {
        read_heredocs(&mut node, &line, lines, diagnostics);
    }
    Some(node)
}

fn read_heredocs(
    node: &mut Node,
    line: &LogicalLine,
    lines: &mut Lines<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let words = match words_in_line(&line.text) {
        Ok(words) => words,
        Err(error) => {
            let kind = DiagnosticKind::InvalidHeredoc;
            diagnostics.push(Diagnostic::error(
                kind,
                error.to_string(),
                node.header,
                node.lines.clone(),
            ));
            node.is_broken = true;
            return;
        }
    };
    for (word, range) in words {
        let read = lines.heredoc(&word.name, word.strip_tabs, diagnostics);
        let word_span = line.span(range);
        let last = lines.line_number();
        node.lines = *node.lines.start()..=last.max(*node.lines.end());
        node.span = node.span.to(read.body);
        if !read.terminated {
            diagnostics.push(unterminated(&word.name, word_span, node));
            node.is_broken = true;
            return;
        }
        node.heredocs.push(Heredoc {
            name: word.name,
            descriptor: word.descriptor,
            expand: word.expand,
            strip_tabs: word.strip_tabs,
            content: lines.text_of(read.body).to_owned(),
            word: word_span,
            body: read.body,
        });
        node.span.end = lines.last_content_end();
    }
}

fn unterminated(name: &str, word: Span, node: &Node) -> Diagnostic {
    let kind = DiagnosticKind::UnterminatedHeredoc;
    Diagnostic::error(kind, "unterminated heredoc", word, node.lines.clone()).with_help(format!(
        "end it with a line that holds `{name}` and nothing else"
    ))
}

/// Cuts one logical line into nodes.
struct Splitter<'a> {
    line: &'a LogicalLine,
    escape: Escape,
    faults: Vec<Diagnostic>,
}

/// Arguments as one way of splitting gives them.
#[derive(Default)]
struct Arguments {
    words: Vec<Spanned<String>>,
    is_json: bool,
    json_fault: Option<JsonFault>,
    trigger: Option<Box<Node>>,
}

impl<'a> Splitter<'a> {
    fn text(&self) -> &'a str {
        &self.line.text
    }

    fn spanned(&self, word: Word) -> Spanned<String> {
        Spanned::new(word.text, self.line.span(word.range))
    }

    fn spanned_range(&self, range: Range<usize>) -> Spanned<String> {
        self.spanned(Word::new(self.text(), range))
    }

    fn lines(&self) -> RangeInclusive<u32> {
        self.line.first..=self.line.last
    }

    fn fault(&mut self, kind: DiagnosticKind, message: String, span: Span, help: &str) {
        let fault = Diagnostic::error(kind, message, span, self.lines());
        self.faults.push(fault.with_help(help));
    }

    fn node(&mut self, range: Range<usize>, depth: usize) -> Node {
        let inner = trim(self.text(), range.clone());
        let (keyword, rest) = split_first(self.text(), inner.clone());
        let rest = rest.unwrap_or(inner.end..inner.end);
        let (flags, arguments_start) = split_flags(self.text(), rest.clone(), self.escape);
        let arguments_range = trim(self.text(), arguments_start..rest.end);
        let keyword = self.spanned_range(keyword);
        let arguments = self.arguments(&keyword, arguments_range, depth);
        let header = self.line.span(inner);
        Node {
            flags: flags.into_iter().map(|flag| self.spanned(flag)).collect(),
            arguments: arguments.words,
            is_json: arguments.is_json,
            json_fault: arguments.json_fault,
            trigger: arguments.trigger,
            heredocs: Vec::new(),
            original: self.text()[range].to_owned(),
            comments: Vec::new(),
            header,
            span: header,
            lines: self.lines(),
            empty_continuation: None,
            is_broken: false,
            keyword,
        }
    }

    fn arguments(&mut self, keyword: &str, range: Range<usize>, depth: usize) -> Arguments {
        let keyword = keyword.to_lowercase();
        match keyword.as_str() {
            "add" | "copy" | "volume" => self.json_or_words(range),
            "cmd" | "entrypoint" | "run" | "shell" => self.json_or_text(range),
            "env" | "label" => self.pairs(&keyword.to_uppercase(), range),
            "arg" => self.quoted_words(range),
            "expose" | "from" => self.blank_words(range),
            "healthcheck" => self.health(range),
            "onbuild" => self.trigger(range, depth),
            "maintainer" | "stopsignal" | "user" | "workdir" => self.raw_text(range),
            _ => self.unknown(&range),
        }
    }

    /// BuildKit gives an unknown instruction one empty argument.
    fn unknown(&self, range: &Range<usize>) -> Arguments {
        let word = self.spanned_range(range.start..range.start);
        Arguments {
            words: vec![word],
            ..Arguments::default()
        }
    }

    fn raw_text(&self, range: Range<usize>) -> Arguments {
        if range.is_empty() {
            return Arguments::default();
        }
        Arguments {
            words: vec![self.spanned_range(range)],
            ..Arguments::default()
        }
    }

    fn blank_words(&self, range: Range<usize>) -> Arguments {
        if range.is_empty() {
            return Arguments::default();
        }
        let words = split_blank(self.text(), range);
        let words = words.into_iter().map(|word| self.spanned(word)).collect();
        Arguments {
            words,
            ..Arguments::default()
        }
    }

    fn quoted_words(&self, range: Range<usize>) -> Arguments {
        let words = split_quoted(self.text(), range, self.escape);
        let words = words.into_iter().map(|word| self.spanned(word)).collect();
        Arguments {
            words,
            ..Arguments::default()
        }
    }

    /// `key=value …`, or `key value` if the first word holds no `=`.
    fn pairs(&mut self, name: &str, range: Range<usize>) -> Arguments {
        let words = split_quoted(self.text(), range.clone(), self.escape);
        let mut arguments = Arguments::default();
        let Some(first) = words.first() else {
            return arguments;
        };
        if !first.text.contains('=') {
            arguments.words = self.legacy_pair(name, range);
            return arguments;
        }
        for word in words {
            match word.text.split_once('=') {
                Some((key, value)) => {
                    self.push_pair(&mut arguments.words, key, value, word.range.clone());
                }
                None => self.missing_equals(&word),
            }
        }
        arguments
    }

    fn push_pair(
        &self,
        words: &mut Vec<Spanned<String>>,
        key: &str,
        value: &str,
        range: Range<usize>,
    ) {
        let written = &self.text()[range.clone()];
        let equals = range.start + written.find('=').unwrap_or(written.len());
        let value_start = (equals + 1).min(range.end);
        words.push(Spanned::new(
            key.to_owned(),
            self.line.span(range.start..equals),
        ));
        words.push(Spanned::new(
            value.to_owned(),
            self.line.span(value_start..range.end),
        ));
        words.push(Spanned::new(
            "=".to_owned(),
            self.line.span(equals..value_start),
        ));
    }

    fn missing_equals(&mut self, word: &Word) {
        let message = format!(
            "Syntax error - can't find = in {}. Must be of the form: name=value",
            quote(&word.text)
        );
        let span = self.line.span(word.range.clone());
        let help = "write `name=value`, and put quotes around a value with blanks in it";
        self.fault(DiagnosticKind::MissingEquals, message, span, help);
    }

    fn legacy_pair(&mut self, name: &str, range: Range<usize>) -> Vec<Spanned<String>> {
        let (key, value) = split_first(self.text(), range.clone());
        let Some(value) = value else {
            let span = self.line.span(range);
            let help = format!("write `{name} name=value`");
            self.fault(
                DiagnosticKind::MissingValue,
                format!("{name} must have two arguments"),
                span,
                &help,
            );
            return Vec::new();
        };
        let delimiter = self.line.span(key.end..key.end);
        vec![
            self.spanned_range(key),
            self.spanned_range(value),
            Spanned::new(String::new(), delimiter),
        ]
    }

    /// The strings of a JSON array. A fault is told only for JSON with other elements than strings;
    /// what is no JSON at all is read in the instruction's other way.
    fn json(&mut self, range: Range<usize>) -> Result<Vec<Spanned<String>>, Option<JsonFault>> {
        match parse_strings(self.text(), range) {
            Ok(words) => Ok(words.into_iter().map(|word| self.spanned(word)).collect()),
            Err(json::Fault::NotArray) => Err(None),
            Err(json::Fault::Syntax { at, reason }) => Err(Some(JsonFault {
                span: self.line.span(at..at),
                reason,
            })),
            Err(json::Fault::NotStrings { element }) => {
                let message =
                    "when using JSON array syntax, arrays must be comprised of strings only";
                let span = self.line.span(element);
                let help = "put the element into double quotes";
                self.fault(
                    DiagnosticKind::JsonNotStrings,
                    message.to_owned(),
                    span,
                    help,
                );
                Ok(Vec::new())
            }
        }
    }

    fn json_or_text(&mut self, range: Range<usize>) -> Arguments {
        if range.is_empty() {
            return Arguments::default();
        }
        self.json_or(range, Self::raw_text)
    }

    fn json_or_words(&mut self, range: Range<usize>) -> Arguments {
        self.json_or(range, Self::blank_words)
    }

    /// An array in JSON, or what `otherwise` makes of the text.
    fn json_or(
        &mut self,
        range: Range<usize>,
        otherwise: impl FnOnce(&Self, Range<usize>) -> Arguments,
    ) -> Arguments {
        match self.json(range.clone()) {
            Ok(words) => Arguments {
                words,
                is_json: true,
                ..Arguments::default()
            },
            Err(json_fault) => Arguments {
                json_fault,
                ..otherwise(self, range)
            },
        }
    }

    /// A type word, then a command.
    fn health(&mut self, range: Range<usize>) -> Arguments {
        if range.is_empty() {
            return Arguments::default();
        }
        let (kind, rest) = split_first(self.text(), range.clone());
        let kind = self.spanned_range(kind);
        let mut arguments = self.json_or_text(rest.unwrap_or(range.end..range.end));
        arguments.words.insert(0, kind);
        arguments
    }

    fn trigger(&mut self, range: Range<usize>, depth: usize) -> Arguments {
        if range.is_empty() {
            return Arguments::default();
        }
        if depth == TRIGGER_DEPTH_MAX {
            return self.raw_text(range);
        }
        let node = self.node(range, depth + 1);
        let mut words = vec![node.keyword.clone()];
        words.extend(node.arguments.iter().cloned());
        Arguments {
            words,
            trigger: Some(Box::new(node)),
            ..Arguments::default()
        }
    }
}

/// The trigger's text of an `ONBUILD` line: what follows the name and the blanks after it. A line
/// that starts with other white space than this keeps its name, as in BuildKit.
pub(crate) fn trigger_text(original: &str) -> &str {
    const NAME: &str = "onbuild";
    let trimmed = original.trim_start_matches(is_regex_space);
    match trimmed.get(..NAME.len()) {
        Some(name) if name.eq_ignore_ascii_case(NAME) => {
            trimmed[NAME.len()..].trim_start_matches(is_regex_space)
        }
        _ => original,
    }
}

/// `\s` of Go's regular expressions.
fn is_regex_space(ch: char) -> bool {
    is_separator(ch) && ch != '\u{b}' || ch == '\n'
}
