//! Which texts name a signal (`moby/sys/signal`, Linux).

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether `text` is a signal: any number but 0, or a name with or without `SIG`, in any case.
pub(crate) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.contains(&name)
        || is_offset(name.strip_prefix("RTMIN+"), 15)
        || is_offset(name.strip_prefix("RTMAX-"), 14)
}

/// `1` up to `most`, written without sign or leading zero.
fn is_offset(text: Option<&str>, most: u32) -> bool {
    text.is_some_and(|text| (1..=most).any(|offset| offset.to_string() == text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for good in [
            "9",
            "SIGKILL",
            "kill",
            "SigTerm",
            "RTMIN+15",
            "sigrtmax-14",
            "1000",
        ] {
            assert!(is_signal(good), "{good}");
        }
        for bad in [
            "0",
            "",
            "SIG",
            "SIGFOO",
            "RTMIN+16",
            "RTMIN+01",
            "SIGSIGKILL",
            "1.5",
        ] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
