use std::collections::BTreeMap;

use serde_json::Value;

use super::corpus::{assert_none, document};
use super::*;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn check(text: &str, expected: &str) {
    let env = env(&[("V", "usr/lib/lib.so"), ("E", ""), ("NL", "a\nb")]);
    let got = match Lexer::new('\\').expand(text, &env) {
        Ok(expansion) => expansion.word,
        Err(error) => error.problem.to_string(),
    };
    assert_eq!(got, expected, "{text}");
}

#[test]
fn every_form_of_substitution() {
    check("$V ${V} $U ${U}|", "usr/lib/lib.so usr/lib/lib.so  |");
    check("${U:-d} ${E:-d} ${E-d} ${V:-d}", "d d  usr/lib/lib.so");
    check("${U:+d}${E:+d}|${E+d}|${V:+d}", "|d|d");
    check("${U?gone}", "U: gone");
    check("${U?}", "U: is not allowed to be unset");
    check("${E:?}", "E: is not allowed to be empty");
    check(
        "${V#*/} ${V##*/} ${V%/*} ${V%%/*}",
        "lib/lib.so lib.so usr/lib usr",
    );
    check(
        "${V/lib/LIB} ${V//lib/LIB} ${V//\\//-}",
        "usr/LIB/lib.so usr/LIB/LIB.so usr-lib-lib.so",
    );
    check("${U:-${E:-x}}", "x");
}

#[test]
fn patterns_stop_at_line_breaks() {
    check("${NL##*}", "\nb");
    check("${NL//?/x}", "x\nx");
}

#[test]
fn replacement_of_all_reads_dollar_zero() {
    check("${V//lib/'<$0$1$$>'}", "usr/<lib$>/<lib$>.so");
    check("${E//*/x}", "x");
    check("${V//*/x}", "x");
}

#[test]
fn faulty_forms() {
    check("${", "syntax error: missing '}'");
    check("${V", "unsupported modifier (\u{fffd}) in substitution");
    check("${}", "syntax error: bad substitution");
    check("${V:#x}", "unsupported modifier (:#) in substitution");
    check("${V/x}", "syntax error: missing '/' in ${}");
    check("${V^x}", "unsupported modifier (^) in substitution");
    check(
        "${V#\\a}",
        "invalid pattern (\\a) in substitution: invalid escape '\\a'",
    );
    check(
        "'x",
        "unexpected end of statement while looking for matching single-quote",
    );
}

#[test]
fn words_are_split_after_expansion() {
    let env = env(&[("SP", " a  b ")]);
    let expansion = Lexer::new('\\')
        .expand("x$SP\"$SP\" 'c d' \\ e", &env)
        .unwrap();
    assert_eq!(expansion.words, ["x", "a", "b", " a  b ", "c d", " e"]);
}

#[test]
fn shown_commands_keep_quotes_and_unset_variables() {
    let shown = Lexer::for_display('\\').expand("echo \"$A\" '$B' ${C:-d}", &env(&[("A", "1")]));
    assert_eq!(shown.unwrap().word, "echo \"1\" '$B' ${C:-d}");
}

#[test]
fn heredocs_keep_quotes_as_text() {
    let body = Lexer::for_heredoc().expand("it's \"$A\" \\$A\n", &env(&[("A", "1")]));
    assert_eq!(body.unwrap().word, "it's \"1\" $A\n");
}

#[test]
fn hostile_texts_are_bounded() {
    let nested = "${a:-".repeat(10_000);
    let error = Lexer::new('\\').expand(&nested, &()).unwrap_err();
    assert_eq!(error.problem, ExpandProblem::TooDeep);

    let big = env(&[("A", &"a".repeat(1 << 19))]);
    let error = Lexer::new('\\').expand("$A$A$A$A", &big).unwrap_err();
    assert_eq!(error.problem, ExpandProblem::TooLong);
    let error = Lexer::new('\\').expand("${A//a/$A}", &big).unwrap_err();
    assert_eq!(error.problem, ExpandProblem::TooLong);
    let stars = format!("${{A#{}b}}", "*a".repeat(400));
    assert!(
        Lexer::new('\\')
            .expand(&stars, &env(&[("A", &"a".repeat(2000))]))
            .is_ok()
    );
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

fn pairs(value: &Value) -> BTreeMap<String, String> {
    let items = value.as_object().into_iter().flatten();
    items
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

/// What disagrees between our answer and the one at `word`, `words` and `error`.
fn compare(case: &Value, env: &BTreeMap<String, String>, error: &str) -> Vec<String> {
    let input = case["input"].as_str().unwrap();
    let escape = case["escape"].as_str().unwrap().chars().next().unwrap();
    let mut wrong = Vec::new();
    let mut expect = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            wrong.push(format!(
                "{input:?} ({escape}) {what}: ours {ours}, theirs {theirs}"
            ));
        }
    };
    match Lexer::new(escape).expand(input, env) {
        Ok(got) => {
            expect(
                "word",
                got.word,
                case["word"].as_str().unwrap_or("an error").to_owned(),
            );
            expect(
                "words",
                format!("{:?}", got.words),
                format!("{:?}", strings(&case["words"])),
            );
            // A call for words alone records no names.
            if case["matched"].is_array() || case["unmatched"].is_array() {
                let listed = |key: &str| strings(&case[key]).into_iter().collect::<BTreeSet<_>>();
                let names = |names: &BTreeSet<String>| format!("{names:?}");
                expect("matched", names(&got.matched), names(&listed("matched")));
                expect(
                    "unmatched",
                    names(&got.unmatched),
                    names(&listed("unmatched")),
                );
            }
        }
        Err(got) => {
            expect(
                "error",
                got.to_string(),
                case[error].as_str().unwrap_or("none").to_owned(),
            );
        }
    }
    wrong
}

#[test]
fn agrees_with_the_reference_implementation() {
    let Some(corpus) = document("shell_words.json.gz") else {
        return;
    };
    let mut wrong = Vec::new();
    let (generated, unit) = (corpus["generated"].as_array(), corpus["unit"].as_array());
    let env = pairs(&corpus["generated_env"]);
    for case in generated.unwrap() {
        wrong.extend(compare(case, &env, "word_error"));
        let escape = case["escape"].as_str().unwrap().chars().next().unwrap();
        let shown = match Lexer::for_display(escape).expand(case["input"].as_str().unwrap(), &env) {
            Ok(expansion) => expansion.word,
            Err(error) => error.to_string(),
        };
        let theirs = case["raw_quotes_skip_unset"]
            .as_str()
            .or_else(|| case["raw_error"].as_str());
        if Some(shown.as_str()) != theirs {
            wrong.push(format!(
                "{} shown: ours {shown}, theirs {theirs:?}",
                case["input"]
            ));
        }
    }
    for case in unit.unwrap() {
        wrong.extend(compare(case, &pairs(&case["env"]), "error"));
    }
    let cases = generated.unwrap().len() + unit.unwrap().len();
    assert!(cases > 3000);
    assert_none(&wrong, cases);
}

proptest::proptest! {
    /// Any text has an answer, and unset variables that stay as written stay so again.
    #[test]
    fn every_text_has_an_answer(text in "[ -~é\\n\\t]{0,40}", value in "[ -~\\n]{0,10}") {
        let env = env(&[("A", &value), ("B", "")]);
        for escape in ['\\', '`'] {
            let _ = Lexer::new(escape).expand(&text, &env);
            let _ = Lexer::for_display(escape).expand(&text, &env);
        }
        let _ = Lexer::for_heredoc().expand(&text, &env);
    }

    #[test]
    fn every_substitution_has_an_answer(
        text in r"(\$\{[AB](:?[-+?#%/]|##|%%|//)[a-c*?/\\}$]{0,4}\}?|[a'\x22 ]){0,6}",
        value in "[a-c/\\n]{0,8}",
    ) {
        let env = env(&[("A", &value)]);
        let _ = Lexer::new('\\').expand(&text, &env);
    }
}
