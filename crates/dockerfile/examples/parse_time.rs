//! Measures that parsing and rendering take time in proportion to the text, on files that would
//! show it if they did not.
//!
//! ```text
//! cargo run --release -p longshore-dockerfile --example parse_time
//! ```

#![expect(clippy::print_stdout, reason = "a tool for developers")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::time::{Duration, Instant};

use longshore_dockerfile::parse;
use longshore_dockerfile::render::{Color, Source};

/// Each case is measured with this many lines and with ten times as many.
const LINES: usize = 5_000;

fn main() {
    println!(
        "{:<34} {:>12} {:>12} {:>7} {:>12}",
        "case", "5,000 lines", "50,000", "ratio", "+ rendering"
    );
    for (name, text) in CASES {
        let small = text(LINES);
        let large = text(LINES * 10);
        let (first, second) = (best_parse(&small), best_parse(&large));
        let ratio = second.as_secs_f64() / first.as_secs_f64();
        let rendering = time(|| {
            let parsed = parse(&small);
            Source::new("Dockerfile", &parsed.text)
                .text_of_all(&parsed.diagnostics, Color::Never)
                .len()
        });
        println!("{name:<34} {first:>12.1?} {second:>12.1?} {ratio:>7.1} {rendering:>12.1?}");
    }
}

type Case = (&'static str, fn(usize) -> String);

const CASES: &[Case] = &[
    ("instructions of all kinds", |lines| {
        let block = "# doc\nRUN --mount=type=cache,target=/c apt-get install -y a b c\nCOPY --chown=1:2 a b /c/\nENV A=\"b c\" D=e\nARG X=y\nLABEL a.b=\"c\"\nEXPOSE 80 443\nCMD [\"a\", \"b\"]\nWORKDIR /x\n";
        format!("FROM a\n{}", block.repeat(lines / 9))
    }),
    ("stages", |lines| {
        (0..lines).map(|n| format!("FROM a AS s{n}\n")).collect()
    }),
    ("one instruction, continued", |lines| {
        format!("FROM a\nRUN a{}", " \\\n  && b 'c d'".repeat(lines))
    }),
    ("one instruction, empty lines", |lines| {
        format!("FROM a\nRUN a{}\n", " \\\n\n".repeat(lines / 2))
    }),
    ("one heredoc", |lines| {
        format!(
            "FROM a\nCOPY <<EOF /x\n{}EOF\n",
            "some line\n".repeat(lines)
        )
    }),
    ("many heredocs on a line", |lines| {
        let words: String = (0..lines / 2).map(|n| format!("<<E{n} \\\n")).collect();
        let ends: String = (0..lines / 2).map(|n| format!("E{n}\n")).collect();
        format!("FROM a\nCOPY {words} /x/\n{ends}")
    }),
    ("many heredocs with one name", |lines| {
        format!(
            "FROM a\nCOPY {} /x/\n{}",
            "<<E \\\n".repeat(lines / 2),
            "E\n".repeat(lines / 2)
        )
    }),
    ("comments", |lines| {
        format!("{}FROM a\n", "# a comment\n".repeat(lines))
    }),
    ("pairs", |lines| {
        format!("FROM a\nENV{}\n", " \\\n  A=\"b c\"".repeat(lines))
    }),
    ("pairs without =", |lines| {
        format!("FROM a\nENV A=b{}\n", " \\\n  c".repeat(lines))
    }),
    ("unknown instructions", |lines| {
        format!("FROM a\n{}", "RUNN a\n".repeat(lines))
    }),
    ("unknown flags", |lines| {
        format!("FROM a\nRUN{} x\n", " \\\n  --mont=x".repeat(lines))
    }),
    ("flags given twice", |lines| {
        format!("FROM a\nCOPY{} x y\n", " \\\n  --from=x".repeat(lines))
    }),
    ("mounts", |lines| {
        format!(
            "FROM a\nRUN{} x\n",
            " \\\n  --mount=type=cache,target=/x".repeat(lines)
        )
    }),
    ("same stage name", |lines| "FROM a AS b\n".repeat(lines)),
    ("legacy pairs", |lines| {
        format!("FROM a\n{}", "ENV a b\n".repeat(lines))
    }),
    ("JSON array", |lines| {
        format!("FROM a\nCMD [\"a\"{}]\n", ", \\\n \"b\"".repeat(lines))
    }),
    ("JSON array, broken at its end", |lines| {
        format!("FROM a\nCMD [\"a\"{}\n", ", \\\n \"b\"".repeat(lines))
    }),
    ("ONBUILD heredocs", |lines| {
        format!("FROM a\n{}", "ONBUILD RUN <<E\nx\nE\n".repeat(lines / 3))
    }),
    ("doc comments for many names", |lines| {
        format!(
            "{}ARG {}\nFROM a\n",
            "# a b\n".repeat(lines / 2),
            " \\\n n=x".repeat(lines / 2)
        )
    }),
    ("list flags, then one twice", |lines| {
        format!(
            "FROM a\nCOPY {} {} x y\n",
            " \\\n --exclude=x".repeat(lines / 2),
            " \\\n --link".repeat(lines / 2)
        )
    }),
    ("no instructions", |lines| "\n".repeat(lines)),
];

/// The best of a few, to be rid of noise.
fn best_parse(text: &str) -> Duration {
    (0..5)
        .map(|_| time(|| parse(text).nodes.len()))
        .min()
        .unwrap_or_default()
}

fn time<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(run());
    start.elapsed()
}
