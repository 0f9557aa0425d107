//! Which names look like those of secrets.

const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Words that say that it is none after all.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Whether one of the name's words, cut at `_`, is a word for secrets.
pub(crate) fn looks_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_within_names() {
        for secret in ["api_key", "DATABASE_PASSWORD", "token", "AUTH_x", "a__key"] {
            assert!(looks_secret(secret), "{secret}");
        }
        for harmless in [
            "monkey",
            "PUBLIC_KEY",
            "KEY_FILE",
            "token_version",
            "keys",
            "api-key",
        ] {
            assert!(!looks_secret(harmless), "{harmless}");
        }
    }
}
