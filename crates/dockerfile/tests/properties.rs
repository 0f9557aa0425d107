//! What holds for every text: no panic, spans that tile, and values that come back as they were
//! written.

use longshore_dockerfile::check::{CheckFilter, CheckOptions};
use longshore_dockerfile::diagnostic::DiagnosticKind;
use longshore_dockerfile::instruction::{CommandForm, CopySource, InstructionKind};
use longshore_dockerfile::render::{Color, Source};
use longshore_dockerfile::span::Span;
use longshore_dockerfile::syntax::Node;
use longshore_dockerfile::{Parsed, TEXT_BYTES_MAX, compat, parse, parse_bytes, parse_trigger};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Fails unless everything that must hold for any text holds for this result.
fn check_invariants(parsed: &Parsed) {
    check_tiling(parsed);
    check_nodes(parsed);
    check_diagnostics(parsed);
    let typed = parsed.dockerfile.origins().count();
    assert!(typed <= parsed.nodes.len());
    if !parsed.has_errors() {
        assert_eq!(
            typed,
            parsed.nodes.len(),
            "an instruction is lost without a word"
        );
        assert!(!parsed.dockerfile.stages.is_empty());
    }
    for origin in parsed.dockerfile.origins() {
        check_span(parsed, origin.span);
        assert!(parsed.text[origin.keyword.span.range()].len() >= origin.keyword.len());
    }
}

fn check_tiling(parsed: &Parsed) {
    let mut at = 0;
    for token in &parsed.tokens {
        assert_eq!(token.span.start, at, "gap or overlap before {token:?}");
        assert!(!token.span.is_empty(), "empty {token:?}");
        at = token.span.end;
    }
    assert_eq!(at, parsed.text.len(), "the end is not covered");
}

fn check_nodes(parsed: &Parsed) {
    let mut at = 0;
    let mut line = 0;
    for node in &parsed.nodes {
        check_node_spans(parsed, node);
        assert!(
            node.span.start >= at && *node.lines.start() > line,
            "nodes overlap: {node:?}"
        );
        assert!(node.lines.start() <= node.lines.end());
        at = node.span.end;
        line = *node.lines.end();
    }
}

fn check_node_spans(parsed: &Parsed, node: &Node) {
    check_span(parsed, node.span);
    check_span(parsed, node.header);
    for word in node.flags.iter().chain(&node.arguments) {
        check_span(parsed, word.span);
        assert!(
            node.header.start <= word.span.start && word.span.end <= node.header.end,
            "{word:?}"
        );
    }
    for heredoc in &node.heredocs {
        assert_eq!(parsed.text[heredoc.body.range()], heredoc.content);
        check_span(parsed, heredoc.word);
    }
    if let Some(trigger) = &node.trigger {
        check_node_spans(parsed, trigger);
    }
}

fn check_diagnostics(parsed: &Parsed) {
    let line_count = parsed.line_index().line_count(&parsed.text).max(1);
    let source = Source::new("Dockerfile", &parsed.text);
    for found in &parsed.diagnostics {
        check_span(parsed, found.span);
        found
            .labels
            .iter()
            .for_each(|label| check_span(parsed, label.span));
        assert!(
            *found.lines.start() >= 1 && *found.lines.end() <= line_count,
            "{found:?}"
        );
        assert!(!found.message.is_empty());
        assert!(source.text(found, Color::Never).contains("Dockerfile:"));
        assert_eq!(source.json(found)["code"], found.kind.code());
    }
    CheckFilter::new(&parsed.dockerfile, None).apply(&mut parsed.diagnostics.clone());
}

fn check_span(parsed: &Parsed, span: Span) {
    assert!(
        parsed.text.get(span.range()).is_some(),
        "{span:?} is outside or inside a character"
    );
}

/// Pieces of Dockerfiles that matter to the lexer, whole and broken.
fn piece() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "LABEL",
        "ARG",
        "CMD",
        "ONBUILD",
        "HEALTHCHECK",
        "EXPOSE",
        "SHELL",
        "VOLUME",
        "WORKDIR",
        "from",
        "As",
        "AS",
        "a",
        "b",
        " ",
        " ",
        " ",
        "\t",
        "\n",
        "\n",
        "\n",
        "\r\n",
        "\\\n",
        "\\ \n",
        "`\n",
        "\\\\\n",
        "\\",
        "`",
        "\n\n",
        "\n# c\n",
        "\n  # escape=`\n",
        "# escape=`\n",
        "# syntax=x\n",
        "# check=skip=all\n",
        "--",
        "--x",
        "--mount=type=cache,id=\"a\"",
        "--from=",
        "--link",
        "=",
        "a=b",
        "\"",
        "'",
        "\"a b\"",
        "$",
        "${",
        "}",
        "${a:-b}",
        "[",
        "]",
        "[\"a\"]",
        "[\"a\",",
        ",",
        "\\u00e9",
        "<<",
        "<<EOF",
        "<<-EOF",
        "<<'E O'",
        "3<<A",
        "EOF",
        "\nEOF\n",
        "\n\tEOF\n",
        "\nA\n",
        "\nE O\n",
        "é",
        "\u{a0}",
        "\u{2003}",
        "\u{feff}",
        "\0",
        "\u{b}",
        "\u{c}",
        "NONE",
        "CMD []",
        "--interval=5s",
    ];
    prop_oneof![20 => select(KNOWN).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

fn dockerfile() -> impl Strategy<Value = String> {
    (any::<bool>(), vec(piece(), 0..60)).prop_map(|(has_from, pieces)| {
        let head = if has_from { "FROM a AS b\n" } else { "" };
        head.to_owned() + &pieces.concat()
    })
}

/// Words that no instruction gives a meaning of its own.
fn plain_word() -> impl Strategy<Value = String> {
    "[a-z/.][a-zA-Z0-9/._-]{0,8}"
}

/// Any text that fits on a line.
fn line_text() -> impl Strategy<Value = String> {
    "[^\r\n\u{85}\u{2028}]{0,30}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read(bytes in vec(any::<u8>(), 0..300)) {
        check_invariants(&parse_bytes(&bytes));
    }

    #[test]
    fn any_text_is_read(text in "\\PC{0,200}") {
        check_invariants(&parse(&text));
    }

    #[test]
    fn any_pieces_are_read(text in dockerfile()) {
        let parsed = parse(&text);
        check_invariants(&parsed);
        prop_assert_eq!(parsed.text, text);
    }

    #[test]
    fn a_prefix_reads_the_same_up_to_its_last_instruction(text in dockerfile(), cut in any::<prop::sample::Index>()) {
        let whole = parse(&text);
        let Some(last) = whole.nodes.get(cut.index(whole.nodes.len().max(1))) else { return Ok(()) };
        let end = text[last.span.end..].find('\n').map_or(text.len(), |at| last.span.end + at + 1);
        let prefix = parse(&text[..end]);
        let count = prefix.nodes.len().saturating_sub(1);
        prop_assert_eq!(&prefix.nodes[..count], &whole.nodes[..count]);
    }

    #[test]
    fn carriage_returns_change_nothing_but_heredocs(text in dockerfile()) {
        let text = text.replace('\r', "").replace("<<", "<");
        let unix = compat::dump(&parse(&text));
        let windows = compat::dump(&parse(&text.replace('\n', "\r\n")));
        prop_assert_eq!(unix, windows);
    }

    #[test]
    fn exec_form_gives_back_its_words(words in vec(any::<String>(), 0..5)) {
        let json = serde_json::to_string(&words).expect("strings are JSON");
        // The one character JSON leaves alone and a line cannot hold.
        prop_assume!(!json.contains('\n'));
        let text = format!("FROM a\nCMD {json}\n");
        prop_assume!(json.len() < 60_000);
        let parsed = parse(&text);
        let InstructionKind::Cmd(cmd) = &parsed.dockerfile.stages[0].instructions[0].kind else {
            return Err(TestCaseError::fail("no CMD"));
        };
        let CommandForm::Exec(found) = &cmd.command else {
            return Err(TestCaseError::fail(format!("not exec: {json}")));
        };
        for (word, found) in words.iter().zip(found) {
            prop_assert_eq!(&found.value, word);
            let written: String = serde_json::from_str(&text[found.span.range()]).expect("the span is the element");
            prop_assert_eq!(&written, word);
        }
        prop_assert_eq!(found.len(), words.len());
    }

    #[test]
    fn heredocs_give_back_their_lines(lines in vec(line_text(), 0..6), tabs in any::<bool>()) {
        prop_assume!(lines.iter().all(|line| line.trim_start_matches('\t') != "END"));
        let body: String = lines.iter().map(|line| line.clone() + "\n").collect();
        let dash = if tabs { "-" } else { "" };
        let text = format!("FROM a\nCOPY <<{dash}END /x\n{body}END\nUSER u\n");
        let parsed = parse(&text);
        prop_assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        prop_assert_eq!(&parsed.nodes[1].heredocs[0].content, &body);
        let InstructionKind::Copy(copy) = &parsed.dockerfile.stages[0].instructions[0].kind else {
            return Err(TestCaseError::fail("no COPY"));
        };
        let [CopySource::Heredoc(file)] = copy.sources.as_slice() else {
            return Err(TestCaseError::fail("no file"));
        };
        let stripped: String = lines.iter().map(|line| line.trim_start_matches('\t').to_owned() + "\n").collect();
        prop_assert_eq!(&file.content, if tabs { &stripped } else { &body });
    }

    #[test]
    fn pairs_give_back_keys_and_values(pairs in vec((plain_word(), plain_word()), 1..6)) {
        let written: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}=\"{value} x\"")).collect();
        let text = format!("FROM a\nENV {}\n", written.join(" \\\n   "));
        let parsed = parse(&text);
        let InstructionKind::Env(env) = &parsed.dockerfile.stages[0].instructions[0].kind else {
            return Err(TestCaseError::fail("no ENV"));
        };
        prop_assert_eq!(env.pairs.len(), pairs.len());
        for (found, (key, value)) in env.pairs.iter().zip(&pairs) {
            prop_assert_eq!(&text[found.key.span.range()], key);
            prop_assert_eq!(&text[found.value.span.range()], format!("\"{value} x\""));
            prop_assert_eq!(&found.value.value, &format!("\"{value} x\""));
        }
    }

    #[test]
    fn continuations_between_words_change_nothing(words in vec(plain_word(), 2..8), breaks in vec(0..5_usize, 8)) {
        let plain = format!("FROM a\nCOPY {}\n", words.join(" "));
        let gaps = [" ", " \\\n", " \\  \n\t", " \\\n# c\n", " \\\n\n  "];
        let mut broken = "FROM a\nCOPY".to_owned();
        for (word, gap) in words.iter().zip(&breaks) {
            broken = broken + gaps[*gap] + word;
        }
        prop_assert_eq!(compat::dump(&parse(&plain)), compat::dump(&parse(&(broken + "\n"))));
    }

    #[test]
    fn triggers_read_like_the_instruction_itself(words in vec(plain_word(), 2..5), script in any::<bool>()) {
        let line = if script { "RUN <<EOF\nmake\nEOF".to_owned() } else { format!("COPY {}", words.join(" ")) };
        let direct = parse(&format!("FROM a\n{line}\n"));
        let onbuild = parse(&format!("FROM a\nONBUILD {line}\n"));
        let InstructionKind::OnBuild(held) = &onbuild.dockerfile.stages[0].instructions[0].kind else {
            return Err(TestCaseError::fail("no ONBUILD"));
        };
        prop_assert_eq!(&held.trigger.value, &line);
        let fired = parse_trigger(&held.trigger).expect("a trigger without faults");
        let expected = &direct.dockerfile.stages[0].instructions[0];
        prop_assert_eq!(&fired.origin.original, &expected.origin.original);
        prop_assert_eq!(fired.kind.name(), expected.kind.name());
    }
}

#[test]
fn a_trigger_must_be_one_instruction_that_may_be_one() {
    let error = |text| parse_trigger(text).expect_err("it has a fault").to_string();
    assert_eq!(
        error("RUN a\nRUN b"),
        "onbuild trigger should be a single expression"
    );
    assert_eq!(error(""), "onbuild trigger should be a single expression");
    assert_eq!(error("from a"), "FROM isn't allowed as an ONBUILD trigger");
    assert_eq!(error("NOTHING"), "unknown instruction: NOTHING");
    assert_eq!(error("RUN <<EOF\nx"), "unterminated heredoc");
    assert_eq!(
        error("COPY a"),
        "COPY requires at least two arguments, but only one was provided. Destination could not be determined"
    );
}

#[test]
fn a_text_larger_than_any_dockerfile_is_not_looked_at() {
    let parsed = parse(&"#".repeat(TEXT_BYTES_MAX + 1));
    assert!(parsed.nodes.is_empty() && parsed.text.is_empty());
    assert_eq!(
        parsed.first_error().map(|error| error.kind),
        Some(DiagnosticKind::FileTooLarge)
    );
}

#[test]
fn check_options_apply_to_the_file_and_to_one_instruction() {
    let text = "# check=error=true\nFROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER me\nMAINTAINER me\n";
    let parsed = parse(text);
    let lines = |filter: &CheckFilter| -> Vec<u32> {
        let wanted = parsed
            .diagnostics
            .iter()
            .filter(|found| filter.wants(found));
        wanted.map(|found| *found.lines.start()).collect()
    };
    let filter = CheckFilter::new(&parsed.dockerfile, None);
    assert_eq!(lines(&filter), [5]);
    assert!(filter.fails(&parsed.diagnostics) && !filter.fails(&[]));
    let skip_all = CheckOptions {
        skip_all: true,
        ..CheckOptions::default()
    };
    let filter = CheckFilter::new(&parsed.dockerfile, Some(&skip_all));
    assert_eq!(lines(&filter), [0; 0]);
    assert!(!filter.fails(&parsed.diagnostics));
}

#[test]
fn deep_nesting_takes_no_stack() {
    let deep = [
        format!("FROM a\nRUN {}\n", "[".repeat(200_000)),
        format!("FROM a\n{}RUN x\n", "ONBUILD ".repeat(8_000)),
        format!("FROM a\nRUN <<A {}\nA\n", "${x:-".repeat(10_000)),
        format!("FROM a\nRUN {}\n", "[{\"a\":".repeat(10_000)),
    ];
    for text in deep {
        check_tiling(&parse(&text));
    }
}
