//! The lossless layer: physical lines to tokens that tile the text, and to logical lines.
//!
//! A logical line is what is left of an instruction once continuations are joined and the comments
//! and empty lines between them are dropped. It remembers where each piece stood, so that any range
//! in it maps back to the text.
//!
//! Invariant: the tokens' spans, in order, cover the text without gap or overlap.

use std::ops::Range;

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::directive::{Directive, DirectiveName, Escape, read_line};
use crate::span::{Span, Spanned};

/// The longest physical line in bytes without its line feed, as BuildKit's line reader has it.
pub const LINE_BYTES_MAX: usize = 65_535;

/// What a piece of the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// U+FEFF at the start.
    ByteOrderMark,
    /// White space between other tokens of a line.
    Blank,
    /// The end of a line, with carriage returns before it.
    LineBreak,
    /// A comment line's text, `#` included.
    Comment,
    /// A directive line's text, `#` included.
    Directive,
    /// An instruction's name.
    Keyword,
    /// Flags and arguments.
    Text,
    /// Escape character at the end of a line and the blanks after it.
    Continuation,
    /// Lines of a heredoc.
    HeredocBody,
    /// The line that ends a heredoc.
    HeredocEnd,
}

/// A piece of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it stands.
    pub span: Span,
}

/// A physical line: `span` with its line break, `content` without.
#[derive(Clone, Copy, Debug)]
struct PhysicalLine {
    number: u32,
    span: Span,
    content: Span,
}

/// A joined instruction line and where its pieces stood.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogicalLine {
    pub(crate) text: String,
    /// Offsets of each piece here and in the source, ascending.
    pieces: Vec<(usize, usize)>,
    /// First and last physical line.
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// The first empty line inside, and the number of the last line read with it.
    pub(crate) empty_continuation: Option<Span>,
    /// Texts of the comments above.
    pub(crate) comments: Vec<String>,
}

impl LogicalLine {
    fn push(&mut self, text: &str, source: usize) {
        self.pieces.push((self.text.len(), source));
        self.text.push_str(text);
    }

    /// The source offset of the byte at `offset`.
    fn source_of(&self, offset: usize) -> usize {
        let index = self
            .pieces
            .partition_point(|(start, _)| *start <= offset)
            .saturating_sub(1);
        self.pieces
            .get(index)
            .map_or(0, |(start, source)| source + (offset - start))
    }

    /// Where a range of this line stands in the source. It covers continuations in between.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        if range.is_empty() {
            // Behind the text before it, not on the line after a continuation.
            let at = range
                .start
                .checked_sub(1)
                .map_or_else(|| self.source_of(0), |last| self.source_of(last) + 1);
            return Span::new(at, at);
        }
        let start = self.source_of(range.start);
        let last = range.end - 1;
        let index = self
            .pieces
            .partition_point(|(at, _)| *at <= last)
            .saturating_sub(1);
        let (at, source) = self.pieces[index];
        Span::new(start, source + (range.end - at))
    }
}

/// A heredoc's lines as read from the text.
pub(crate) struct HeredocLines {
    pub(crate) body: Span,
    pub(crate) terminated: bool,
}

/// Reads the text from top to bottom.
pub(crate) struct Lines<'a> {
    text: &'a str,
    at: usize,
    /// Where the last line read starts.
    last_start: usize,
    number: u32,
    directives_open: bool,
    pub(crate) escape: Escape,
    pub(crate) directives: Vec<Directive>,
    pub(crate) tokens: Vec<Token>,
    comments: Vec<String>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let mut lines = Self {
            text,
            at: 0,
            last_start: 0,
            number: 0,
            directives_open: true,
            escape: Escape::default(),
            directives: Vec::new(),
            tokens: Vec::new(),
            comments: Vec::new(),
        };
        if text.starts_with('\u{feff}') {
            lines.at = '\u{feff}'.len_utf8();
            lines.token(TokenKind::ByteOrderMark, Span::new(0, lines.at));
        }
        lines
    }

    /// How many physical lines were read.
    pub(crate) fn line_number(&self) -> u32 {
        self.number
    }

    pub(crate) fn text_of(&self, span: Span) -> &'a str {
        self.slice(span)
    }

    /// Where the content of the last line read ends, its line break left out.
    pub(crate) fn last_content_end(&self) -> usize {
        self.text[..self.at]
            .trim_end_matches(['\r', '\n'])
            .len()
            .max(self.last_start)
    }

    fn token(&mut self, kind: TokenKind, span: Span) {
        if !span.is_empty() {
            self.tokens.push(Token { kind, span });
        }
    }

    fn slice(&self, span: Span) -> &'a str {
        &self.text[span.range()]
    }

    fn next_physical(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<PhysicalLine> {
        if self.at == self.text.len() {
            return None;
        }
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let end = memchr::memchr(b'\n', rest).map_or(self.text.len(), |at| start + at + 1);
        self.at = end;
        self.last_start = start;
        self.number += 1;
        let span = Span::new(start, end);
        let content = self.slice(span).trim_end_matches(['\r', '\n']);
        let line = PhysicalLine {
            number: self.number,
            span,
            content: Span::new(start, start + content.len()),
        };
        self.check_length(line, diagnostics);
        Some(line)
    }

    fn check_length(&self, line: PhysicalLine, diagnostics: &mut Vec<Diagnostic>) {
        // The byte-order mark counts towards the first line.
        let start = if line.number == 1 { 0 } else { line.span.start };
        let text = &self.text[start..line.span.end];
        if text.strip_suffix('\n').unwrap_or(text).len() <= LINE_BYTES_MAX {
            return;
        }
        let message = format!("dockerfile line greater than max allowed size of {LINE_BYTES_MAX}");
        let head = self
            .slice(line.content)
            .char_indices()
            .nth(40)
            .map_or(0, |(at, _)| at);
        let span = Span::new(line.content.start, line.content.start + head);
        let lines = line.number..=line.number;
        diagnostics.push(
            Diagnostic::error(DiagnosticKind::LineTooLong, message, span, lines).with_help(
                "break the line with continuations, or put the text into a heredoc or a file",
            ),
        );
    }

    /// The next logical line; comments, directives and blank lines before it are read on the way.
    pub(crate) fn next_logical(
        &mut self,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<LogicalLine> {
        while let Some(line) = self.next_physical(diagnostics) {
            let content = self.slice(line.content);
            let trimmed = content.trim_start();
            let start = line.content.end - trimmed.len();
            self.token(TokenKind::Blank, Span::new(line.content.start, start));
            let text = Span::new(start, line.content.end);
            if trimmed.starts_with('#') {
                self.comment_line(line, text, diagnostics);
                continue;
            }
            self.directives_open = false;
            let (kept, continues) = trim_continuation(trimmed, self.escape);
            if kept.is_empty() && !continues {
                self.line_break(line);
                continue;
            }
            return Some(self.join(line, text, kept.len(), continues, diagnostics));
        }
        None
    }

    fn line_break(&mut self, line: PhysicalLine) {
        self.token(
            TokenKind::LineBreak,
            Span::new(line.content.end, line.span.end),
        );
    }

    fn comment_line(&mut self, line: PhysicalLine, text: Span, diagnostics: &mut Vec<Diagnostic>) {
        let is_directive = self.directives_open && self.directive_line(line, text, diagnostics);
        if is_directive {
            self.token(TokenKind::Directive, text);
        } else {
            self.token(TokenKind::Comment, text);
            self.keep_comment(line);
        }
        self.line_break(line);
    }

    /// A comment's text is the line without its first character, whatever that is: an indented
    /// comment keeps its `#`. A bare `#` separates comments.
    fn keep_comment(&mut self, line: PhysicalLine) {
        let mut chars = self.slice(line.content).chars();
        chars.next();
        let comment = chars.as_str().trim();
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
    }

    /// Reads a line of the directive region; answers whether it was one.
    fn directive_line(
        &mut self,
        line: PhysicalLine,
        text: Span,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> bool {
        let Some(read) = read_line(self.slice(text), "#") else {
            self.directives_open = false;
            return false;
        };
        let start = text.start + read.value_start;
        let value = Spanned::new(
            read.value.to_owned(),
            Span::new(start, start + read.value.len()),
        );
        let directive = Directive {
            name: read.name,
            value,
            span: text,
            line: line.number,
        };
        if let Some(fault) = self.directive_fault(&directive) {
            diagnostics.push(fault);
            return true;
        }
        if let Some(escape) = Escape::from_value(&directive.value)
            && directive.name == DirectiveName::Escape
        {
            self.escape = escape;
        }
        self.directives.push(directive);
        true
    }

    fn directive_fault(&self, directive: &Directive) -> Option<Diagnostic> {
        let lines = directive.line..=directive.line;
        if let Some(first) = self
            .directives
            .iter()
            .find(|seen| seen.name == directive.name)
        {
            let name = directive.name.as_str();
            let message = format!("only one {name} parser directive can be used");
            let kind = DiagnosticKind::DuplicateDirective;
            return Some(
                Diagnostic::error(kind, message, directive.span, lines)
                    .with_label(first.span, "first given here")
                    .with_help("remove one of the two lines"),
            );
        }
        if directive.name == DirectiveName::Escape && Escape::from_value(&directive.value).is_none()
        {
            let value = &directive.value.value;
            let message = format!("invalid escape token '{value}' does not match ` or \\");
            let kind = DiagnosticKind::InvalidEscape;
            return Some(
                Diagnostic::error(kind, message, directive.value.span, lines)
                    .with_help("write `# escape=\\` or `# escape=` followed by a backtick"),
            );
        }
        None
    }

    /// Joins a line with those that continue it. `kept` bytes of the first one's text remain.
    fn join(
        &mut self,
        line: PhysicalLine,
        text: Span,
        kept: usize,
        continues: bool,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> LogicalLine {
        let mut joined = LogicalLine {
            first: line.number,
            last: line.number,
            comments: std::mem::take(&mut self.comments),
            ..LogicalLine::default()
        };
        self.piece(&mut joined, line, text, kept);
        let mut continues = continues;
        while continues {
            let Some(line) = self.next_physical(diagnostics) else {
                break;
            };
            joined.last = line.number;
            continues = self.continuation_line(&mut joined, line);
        }
        joined
    }

    /// Adds one line to a logical line; answers whether it continues.
    fn continuation_line(&mut self, joined: &mut LogicalLine, line: PhysicalLine) -> bool {
        let content = self.slice(line.content);
        let trimmed = content.trim_start();
        let start = line.content.end - trimmed.len();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            self.token(TokenKind::Blank, Span::new(line.content.start, start));
            self.token(TokenKind::Comment, Span::new(start, line.content.end));
            self.line_break(line);
            if trimmed.is_empty() {
                joined.empty_continuation.get_or_insert(line.span);
            }
            return true;
        }
        let (kept, continues) = trim_continuation(content, self.escape);
        self.piece(joined, line, line.content, kept.len());
        continues
    }

    /// Adds the first `kept` bytes of `text`; what remains of the line is its continuation.
    fn piece(&mut self, joined: &mut LogicalLine, line: PhysicalLine, text: Span, kept: usize) {
        let kept_end = text.start + kept;
        joined.push(&self.text[text.start..kept_end], text.start);
        self.token(TokenKind::Text, Span::new(text.start, kept_end));
        self.token(
            TokenKind::Continuation,
            Span::new(kept_end, line.content.end),
        );
        self.line_break(line);
    }

    /// Marks a keyword's pieces among the tokens pushed since `first_token`.
    pub(crate) fn mark_keyword(&mut self, first_token: usize, keyword: Span) {
        if keyword.is_empty() {
            return;
        }
        let tail = self.tokens.split_off(first_token);
        for token in tail {
            if token.kind != TokenKind::Text {
                self.tokens.push(token);
                continue;
            }
            let start = keyword.start.clamp(token.span.start, token.span.end);
            let end = keyword.end.clamp(start, token.span.end);
            self.token(TokenKind::Text, Span::new(token.span.start, start));
            self.token(TokenKind::Keyword, Span::new(start, end));
            self.token(TokenKind::Text, Span::new(end, token.span.end));
        }
    }

    /// Reads up to the line that consists of `name` alone, or to the end.
    pub(crate) fn heredoc(
        &mut self,
        name: &str,
        strip_tabs: bool,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> HeredocLines {
        let start = self.at;
        let mut end = start;
        while let Some(line) = self.next_physical(diagnostics) {
            let content = self.slice(line.content);
            let content = if strip_tabs {
                content.trim_start_matches('\t')
            } else {
                content
            };
            if content == name {
                self.token(TokenKind::HeredocBody, Span::new(start, line.span.start));
                self.token(TokenKind::HeredocEnd, line.content);
                self.line_break(line);
                return HeredocLines {
                    body: Span::new(start, line.span.start),
                    terminated: true,
                };
            }
            end = line.span.end;
        }
        self.token(TokenKind::HeredocBody, Span::new(start, end));
        HeredocLines {
            body: Span::new(start, end),
            terminated: false,
        }
    }
}

/// Cuts the escape character that continues a line, and the blanks after it. Two of them at the end
/// are no continuation.
fn trim_continuation(line: &str, escape: Escape) -> (&str, bool) {
    let escape = escape.as_char();
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape);
    match before {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(text: &str) -> Vec<String> {
        let mut lines = Lines::new(text);
        let mut diagnostics = Vec::new();
        let found = std::iter::from_fn(|| lines.next_logical(&mut diagnostics));
        found.map(|line| line.text).collect()
    }

    #[test]
    fn continuations_join_without_a_blank() {
        assert_eq!(logical("RUN a\\\nb\n"), ["RUN ab"]);
        assert_eq!(logical("RUN a \\  \t\n  b\n"), ["RUN a   b"]);
        assert_eq!(logical("RUN a \\\\\nRUN b"), ["RUN a \\\\", "RUN b"]);
        assert_eq!(logical("RUN a \\\n# no\n\n   \n\tb\r\n"), ["RUN a \tb"]);
        assert_eq!(logical("RUN a \\"), ["RUN a "]);
        assert_eq!(logical("\\\nRUN a"), ["RUN a"]);
    }

    #[test]
    fn the_escape_directive_changes_the_continuation() {
        assert_eq!(
            logical("# escape=`\nRUN a `\nb \\\nRUN c"),
            ["RUN a b \\", "RUN c"]
        );
    }

    #[test]
    fn a_directive_after_a_comment_is_a_comment() {
        let mut lines = Lines::new("# hi\n# escape=`\nFROM a");
        let line = lines.next_logical(&mut Vec::new()).unwrap();
        assert_eq!(lines.escape, Escape::Backslash);
        assert_eq!(line.comments, ["hi", "escape=`"]);
    }

    #[test]
    fn an_indented_comment_keeps_its_sign_and_a_bare_one_clears() {
        let mut lines = Lines::new("\n# a\n#\n# b\n  # c\n\nFROM a");
        assert_eq!(
            lines.next_logical(&mut Vec::new()).unwrap().comments,
            ["b", "# c"]
        );
    }

    #[test]
    fn ranges_map_back_over_continuations() {
        let text = "RUN one \\\n# x\n two";
        let line = Lines::new(text).next_logical(&mut Vec::new()).unwrap();
        let at = line.text.find("two").unwrap();
        assert_eq!(&text[line.span(at..at + 3).range()], "two");
        assert_eq!(&text[line.span(4..at + 1).range()], "one \\\n# x\n t");
    }

    #[test]
    fn the_longest_line_is_as_buildkit_has_it() {
        let fault_count = |text: &str| {
            let mut diagnostics = Vec::new();
            let mut lines = Lines::new(text);
            while lines.next_logical(&mut diagnostics).is_some() {}
            diagnostics.len()
        };
        let line = "x".repeat(LINE_BYTES_MAX);
        assert_eq!(fault_count(&line), 0);
        assert_eq!(fault_count(&format!("{line}\n{line}\n")), 0);
        assert_eq!(fault_count(&format!("{line}y\n{line}\r\n")), 2);
        assert_eq!(fault_count(&format!("\u{feff}{line}")), 1);
    }
}
