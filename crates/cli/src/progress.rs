//! Progress on standard error: a block of lines for each step, as BuildKit's plain
//! progress has it, or one JSON event a line.
//!
//! ```text
//! #3 [build 2/4] RUN make
//! #3 0.512 cc -O2 …
//! #3 DONE 1.3s
//! #4 [build 3/4] COPY . .
//! #4 CACHED
//! ```
//!
//! What steps write is shown without control characters, so that no step can steer the
//! terminal. The last lines of each step are kept, to be shown again where it fails.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use longshore_engine::ProgressEvent;
use longshore_solver::{Event, MissReason};

use crate::args::ProgressMode;

/// How many of a failed step's last lines are shown again.
const TAIL_LINES: usize = 20;
/// A line of output that does not end is cut here, in bytes.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Shows what a build does.
pub(crate) struct Progress {
    mode: ProgressMode,
    explain: bool,
    state: Mutex<State>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    steps: BTreeMap<u64, Step>,
    count: usize,
    last_shown: Option<usize>,
}

struct Step {
    number: usize,
    name: String,
    started: Instant,
    line: Vec<u8>,
    tail: VecDeque<String>,
}

impl Progress {
    /// Shows in `mode`; with `explain`, why each step was or was not cached.
    pub(crate) fn new(mode: ProgressMode, explain: bool) -> Self {
        Self {
            mode,
            explain,
            state: Mutex::new(State::default()),
        }
    }

    fn show(&self, event: &ProgressEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            ProgressEvent::Note(text) => write_line(&format!("{text}\n")),
            ProgressEvent::Planned { .. } => {}
            ProgressEvent::Named { id, name } => {
                state.name(*id, name);
            }
            ProgressEvent::Step { id, event } => self.show_step(&mut state, *id, event),
        }
    }

    fn show_step(&self, state: &mut State, id: u64, event: &Event) {
        match event {
            Event::Planned { .. } | Event::CacheTrouble { .. } => {}
            Event::Started { .. } => state.begin(id),
            Event::Waiting { .. } => state.say(id, "waiting for the same step of another build"),
            Event::Log { bytes, .. } => state.log(id, bytes),
            Event::Progress {
                what,
                current,
                total,
                ..
            } => state.transfer(id, what, *current, *total),
            Event::Cached { from, .. } => {
                if self.explain {
                    state.say(id, &format!("hit: {from}"));
                }
                state.say(id, "CACHED");
            }
            Event::Missed { reason, .. } => {
                if self.explain {
                    for line in explain(reason) {
                        state.say(id, &format!("miss: {line}"));
                    }
                }
            }
            Event::Finished { duration, .. } => {
                state.end(id, &format!("DONE {:.1}s", duration.as_secs_f64()));
            }
            Event::Failed { error, .. } => {
                state.end(id, &format!("ERROR: {}", printable(error.as_bytes())));
            }
            Event::Canceled { .. } => state.end(id, "CANCELED"),
            Event::Warning { message, .. } => {
                state.say(id, &format!("warning: {}", printable(message.as_bytes())));
            }
        }
    }

    /// The last lines that the step `name` wrote.
    pub(crate) fn tail_of(&self, name: &str) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = state
            .steps
            .values()
            .rev()
            .find(|step| step.name == name && !step.tail.is_empty());
        step.map(|step| step.tail.iter().cloned().collect())
            .unwrap_or_default()
    }
}

impl longshore_engine::ProgressSink for Progress {
    fn emit(&self, event: ProgressEvent) {
        match self.mode {
            ProgressMode::Rawjson => {
                write_line(&(serde_json::to_string(&event).unwrap_or_default() + "\n"));
            }
            // The tails are kept even where nothing is shown.
            ProgressMode::Quiet => {
                if let ProgressEvent::Named { .. }
                | ProgressEvent::Step {
                    event: Event::Log { .. },
                    ..
                } = event
                {
                    self.state
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .keep(&event);
                }
            }
            ProgressMode::Auto | ProgressMode::Plain | ProgressMode::Tty => self.show(&event),
        }
    }
}

impl State {
    fn name(&mut self, id: u64, name: &str) -> &mut Step {
        let count = &mut self.count;
        self.steps.entry(id).or_insert_with(|| {
            *count += 1;
            Step {
                number: *count,
                name: name.to_owned(),
                started: Instant::now(),
                line: Vec::new(),
                tail: VecDeque::new(),
            }
        })
    }

    /// Writes the step's heading where another step was shown last.
    fn heading(&mut self, id: u64) -> usize {
        let step = self.name(id, "");
        let (number, text) = (
            step.number,
            format!("#{} {}\n", step.number, printable(step.name.as_bytes())),
        );
        if self.last_shown != Some(number) {
            if self.last_shown.is_some() {
                write_line("\n");
            }
            write_line(&text);
            self.last_shown = Some(number);
        }
        number
    }

    fn say(&mut self, id: u64, text: &str) {
        let number = self.heading(id);
        write_line(&format!("#{number} {text}\n"));
    }

    fn begin(&mut self, id: u64) {
        self.name(id, "").started = Instant::now();
        self.heading(id);
    }

    fn end(&mut self, id: u64, text: &str) {
        self.flush(id);
        self.say(id, text);
    }

    fn log(&mut self, id: u64, bytes: &[u8]) {
        for line in self.complete_lines(id, bytes) {
            self.show_output(id, &line);
        }
    }

    fn keep(&mut self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Named { id, name } => {
                self.name(*id, name);
            }
            ProgressEvent::Step {
                id,
                event: Event::Log { bytes, .. },
            } => {
                for line in self.complete_lines(*id, bytes) {
                    self.remember(*id, &printable(&line));
                }
            }
            _ => {}
        }
    }

    fn complete_lines(&mut self, id: u64, bytes: &[u8]) -> Vec<Vec<u8>> {
        let step = self.name(id, "");
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            step.line.extend_from_slice(piece);
            if step.line.last() == Some(&b'\n') || step.line.len() >= LINE_BYTES_MAX {
                lines.push(std::mem::take(&mut step.line));
            }
        }
        lines
    }

    fn flush(&mut self, id: u64) {
        let rest = std::mem::take(&mut self.name(id, "").line);
        if !rest.is_empty() {
            self.show_output(id, &rest);
        }
    }

    fn show_output(&mut self, id: u64, line: &[u8]) {
        let text = printable(line);
        self.remember(id, &text);
        let number = self.heading(id);
        let seconds = self.name(id, "").started.elapsed().as_secs_f64();
        write_line(&format!("#{number} {seconds:.3} {text}\n"));
    }

    fn remember(&mut self, id: u64, text: &str) {
        let tail = &mut self.name(id, "").tail;
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
    }

    fn transfer(&mut self, id: u64, what: &str, current: u64, total: Option<u64>) {
        // One line when a transfer begins and one when it is complete.
        let done = total == Some(current);
        if current == 0 || done {
            let size = total.map(crate::units::show_bytes).unwrap_or_default();
            self.say(
                id,
                &format!(
                    "{} {size}{}",
                    printable(what.as_bytes()),
                    if done { " done" } else { "" }
                ),
            );
        }
    }
}

/// Why a step had to run, a line each.
pub(crate) fn explain(reason: &MissReason) -> Vec<String> {
    let MissReason::Changed { fields, inputs } = reason else {
        return vec![reason.to_string()];
    };
    let mut lines: Vec<String> = fields.iter().map(ToString::to_string).collect();
    for input in inputs {
        if input.paths.is_empty() {
            lines.push(input.to_string());
            continue;
        }
        let paths = input.paths.iter();
        lines.extend(paths.map(|path| format!("in `{}`: {path}", input.name)));
        let rest = input.paths_total.saturating_sub(input.paths.len());
        if rest > 0 {
            lines.push(format!("in `{}`: {rest} more files changed", input.name));
        }
    }
    lines
        .iter()
        .map(|line| printable(line.as_bytes()))
        .collect()
}

/// The text without control characters and escape sequences; tabs stay.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    // A carriage return overwrites the line: what came last is what would be seen.
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or("");
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => out.push('\t'),
            '\n' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Skips one escape sequence: `ESC [ … final`, `ESC ] … BEL`, or one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => {
            chars.find(|c| matches!(c, '@'..='~'));
        }
        Some(']') => {
            chars.find(|c| matches!(c, '\u{7}' | '\u{9c}' | '\\'));
        }
        _ => {}
    }
}

/// Writes to standard error; a reader that went away is nobody's error.
fn write_line(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(
            printable(b"\x1b[31mred\x1b[0m\x07 \x1b]0;title\x07x\ty"),
            "red x\ty"
        );
        assert_eq!(printable(b"10%\r50%\r100%\n"), "100%");
        assert_eq!(printable(b"a\xffb"), "a\u{fffd}b");
    }

    #[test]
    fn only_the_last_lines_of_a_step_are_kept() {
        let progress = Progress::new(ProgressMode::Quiet, false);
        use longshore_engine::ProgressSink as _;
        progress.emit(ProgressEvent::Named {
            id: 1,
            name: "RUN x".to_owned(),
        });
        let bytes: Vec<u8> = (0..100)
            .flat_map(|n| format!("line {n}\n").into_bytes())
            .collect();
        let event = Event::Log {
            vertex: longshore_graph::VertexId(0),
            stream: longshore_solver::LogStream::Stdout,
            bytes,
        };
        progress.emit(ProgressEvent::Step { id: 1, event });
        let tail = progress.tail_of("RUN x");
        assert_eq!(
            (tail.len(), tail.last().map(String::as_str)),
            (TAIL_LINES, Some("line 99"))
        );
    }
}
