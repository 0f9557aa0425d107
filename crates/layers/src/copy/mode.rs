//! `--chmod`: octal and symbolic modes.

/// Every bit that a mode may have.
const MODE_MAX: u32 = 0o7777;
const STICKY: u32 = 0o1000;
/// What `a` and nothing at all stand for: everything but the sticky bit.
const ALL: u32 = 0o6777;
const OTHERS: u32 = 0o007;
const EXECUTE: u32 = 0o111;

/// A change of modes, ready to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// Sets the mode, directories included.
    Octal(u32),
    /// Changes it as `chmod` does with a umask of zero.
    Symbolic(SymbolicMode),
}

/// `u=rwX,go-w` and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolicMode {
    steps: Vec<Step>,
}

/// Not a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode `{0}`")]
pub struct ModeError(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Set(u32),
    Clear(u32),
    /// `X`: sets where anybody may execute already, and on directories.
    SetExecute(u32),
    /// Takes the three bits at `from` (a shift) to the classes in `to`.
    Copy {
        from: u32,
        to: u32,
        operator: u8,
    },
}

impl ModeChange {
    /// Reads an octal number up to 07777 or a symbolic mode.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let invalid = || ModeError(text.to_owned());
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let digits = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
            let mode = u32::from_str_radix(text, 8).ok();
            return mode
                .filter(|mode| digits && *mode <= MODE_MAX)
                .map(Self::Octal)
                .ok_or_else(invalid);
        }
        let steps = Parser::new(text).clauses().ok_or_else(invalid)?;
        Ok(Self::Symbolic(SymbolicMode { steps }))
    }

    /// The mode of a file or directory that had `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(octal) => octal & MODE_MAX,
            Self::Symbolic(symbolic) => symbolic.apply(mode, is_directory),
        }
    }

    /// The mode of directories that are made because something needs them: an octal mode
    /// without its special bits, else 0755.
    pub(super) fn implied_directory(change: Option<&Self>) -> u32 {
        match change {
            Some(Self::Octal(octal)) => octal & 0o777,
            _ => 0o755,
        }
    }
}

impl SymbolicMode {
    fn apply(&self, before: u32, is_directory: bool) -> u32 {
        let executable = is_directory || before & EXECUTE != 0;
        self.steps.iter().fold(before, |mode, step| match *step {
            Step::Set(bits) => mode | bits,
            Step::Clear(bits) => mode & !bits,
            Step::SetExecute(bits) if executable => mode | bits,
            Step::SetExecute(_) => mode,
            Step::Copy { from, to, operator } => copy(mode, from, to, operator),
        })
    }
}

fn copy(mode: u32, from: u32, to: u32, operator: u8) -> u32 {
    let value = (mode >> from) & 0o7;
    let spread = (value * 0o111) & to;
    match operator {
        b'+' => mode | spread,
        b'-' => mode & !spread,
        _ => (mode & !to) | spread,
    }
}

struct Parser<'a> {
    rest: &'a [u8],
    steps: Vec<Step>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text.as_bytes(),
            steps: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Clauses separated by commas; each is classes, then one or more operations.
    fn clauses(mut self) -> Option<Vec<Step>> {
        loop {
            let mut classes = self.classes();
            // `=` clears what it does not set once per clause, copies included.
            let mut assigned = false;
            loop {
                self.operation(&mut classes, &mut assigned)?;
                match self.rest.first() {
                    None => return Some(self.steps),
                    Some(b',') => break,
                    Some(_) => {}
                }
            }
            self.next();
        }
    }

    fn classes(&mut self) -> u32 {
        let mut classes = 0;
        while let Some(first) = self.rest.first() {
            classes |= match first {
                b'a' => ALL,
                b'u' => 0o4700,
                b'g' => 0o2070,
                b'o' => OTHERS,
                _ => break,
            };
            self.next();
        }
        classes
    }

    fn operation(&mut self, classes: &mut u32, assigned: &mut bool) -> Option<()> {
        let operator = self.next().filter(|op| matches!(op, b'+' | b'-' | b'='))?;
        if operator == b'=' {
            *assigned = false;
        }
        *classes &= !STICKY;
        let (mut bits, mut execute) = (0, 0);
        loop {
            // Set-id and sticky bits do not belong to others.
            let special = *classes == 0 || *classes & !OTHERS != 0;
            match self.rest.first() {
                Some(b'r') => bits |= 0o444,
                Some(b'w') => bits |= 0o222,
                Some(b'x') => bits |= EXECUTE,
                Some(b'X') if operator == b'-' => bits |= EXECUTE,
                Some(b'X') => execute = EXECUTE,
                Some(b's') if special => bits |= 0o6000,
                Some(b't') if special => {
                    *classes |= STICKY;
                    bits |= STICKY;
                }
                Some(b's' | b't') => {}
                Some(class @ (b'u' | b'g' | b'o')) => {
                    if bits != 0 {
                        self.change(operator, *classes, bits);
                    }
                    *assigned |= operator == b'=';
                    self.execute(*classes, execute);
                    self.copy(*class, *classes, operator);
                    (bits, execute) = (0, 0);
                }
                _ => break,
            }
            self.next();
        }
        if bits != 0 || (operator == b'=' && !*assigned) {
            *assigned |= operator == b'=';
            self.change(operator, *classes, bits);
        }
        self.execute(*classes, execute);
        Some(())
    }

    fn change(&mut self, operator: u8, classes: u32, bits: u32) {
        let within = if classes == 0 { MODE_MAX } else { classes };
        if operator == b'=' {
            let cleared = if classes == 0 { ALL } else { classes };
            self.steps.push(Step::Clear(cleared));
        }
        self.steps.push(match operator {
            b'-' => Step::Clear(bits & within),
            _ => Step::Set(bits & within),
        });
    }

    fn execute(&mut self, classes: u32, execute: u32) {
        if execute != 0 {
            let within = if classes == 0 { MODE_MAX } else { classes };
            self.steps.push(Step::SetExecute(execute & within));
        }
    }

    fn copy(&mut self, class: u8, classes: u32, operator: u8) {
        let from = match class {
            b'u' => 6,
            b'g' => 3,
            _ => 0,
        };
        let to = if classes == 0 { 0o777 } else { classes & 0o777 };
        self.steps.push(Step::Copy { from, to, operator });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mode: &str, before: u32, is_directory: bool) -> u32 {
        ModeChange::parse(mode).unwrap().apply(before, is_directory)
    }

    #[test]
    fn symbolic_modes_change_as_chmod_does() {
        let cases = [
            ("go-w", 0o666, false, 0o644),
            ("u=rw,g=r,o=r", 0o666, false, 0o644),
            ("a+X", 0o666, false, 0o666),
            ("a+X", 0o644, true, 0o755),
            ("a+X", 0o124, true, 0o135),
            ("go-w", 0o124, true, 0o104),
            ("u+rw,g+r,o-x,o+w", 0o124, true, 0o766),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o711, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("=", 0o4755, false, 0),
            ("=t", 0o644, false, 0o1644),
            ("a=", 0o1777, false, 0o1000),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("+t", 0o755, true, 0o1755),
            ("o+t", 0o755, true, 0o755),
            ("o+s", 0o755, true, 0o755),
            ("g=u", 0o754, false, 0o774),
            ("o=g-w", 0o775, false, 0o775 & !0o002),
            ("go=u-w", 0o755, false, 0o755),
            ("go=u-w", 0o700, false, 0o755),
            ("u-x+r", 0o333, false, 0o633),
            ("-X", 0o755, false, 0o644),
            ("u=rwx,go=", 0o777, false, 0o700),
        ];
        for (mode, before, is_directory, after) in cases {
            let got = check(mode, before, is_directory);
            assert_eq!(got, after, "{mode} on {before:o}: {got:o}, not {after:o}");
        }
    }

    #[test]
    fn octal_modes_set_everything() {
        assert_eq!(check("644", 0o4755, true), 0o644);
        assert_eq!(check("04755", 0, false), 0o4755);
        assert_eq!(
            ModeChange::implied_directory(ModeChange::parse("4750").ok().as_ref()),
            0o750
        );
        assert_eq!(
            ModeChange::implied_directory(ModeChange::parse("u=rwx").ok().as_ref()),
            0o755
        );
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in [
            "", "64a", "10000", "888", "u", "u=q", "u=r,", ",u=r", "rwx", "u=r g=r",
        ] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
