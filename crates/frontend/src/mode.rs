//! The values of `--chmod` and `--chown`.

use longshore_graph::{ModeSpec, Owner, Principal};

use crate::error::Problem;

/// Set-id, sticky and permission bits.
const MODE_MAX: u32 = 0o7777;

/// `0755`, or symbolic as BSD's `setmode(3)` reads it.
pub(crate) fn parse_mode(text: &str) -> Result<ModeSpec, Problem> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    if is_number
        && let Ok(mode) = u32::from_str_radix(text, 8)
        && mode <= MODE_MAX
    {
        return Ok(ModeSpec::Octal(mode));
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(Problem::ChmodNumber {
            value: text.to_owned(),
        });
    }
    if text.split(',').all(is_clause) {
        return Ok(ModeSpec::Symbolic(text.to_owned()));
    }
    Err(Problem::ChmodSyntax)
}

/// Who, then at least one operator, each with any number of permissions.
fn is_clause(clause: &str) -> bool {
    let operations = clause.trim_start_matches(['a', 'u', 'g', 'o']);
    operations.starts_with(['+', '-', '='])
        && operations.chars().all(|ch| "+-=rstwXxugo".contains(ch))
}

/// `user[:group]`, each a number or a name. `root` is 0; an empty user or group is 0 too.
pub(crate) fn parse_owner(text: &str) -> Owner {
    match text.split_once(':') {
        Some((user, group)) => Owner {
            user: Some(parse_principal(user)),
            group: Some(parse_principal(group)),
        },
        None => Owner {
            user: Some(parse_principal(text)),
            group: None,
        },
    }
}

fn parse_principal(text: &str) -> Principal {
    match (text, text.parse::<i32>()) {
        ("root" | "", _) => Principal::Id(0),
        // As BuildKit sends it: a negative number wraps around.
        (_, Ok(id)) => Principal::Id(id.cast_unsigned()),
        (name, Err(_)) => Principal::Name(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_symbolic_modes() {
        assert_eq!(parse_mode("0755").unwrap(), ModeSpec::Octal(0o755));
        assert_eq!(parse_mode("7777").unwrap(), ModeSpec::Octal(0o7777));
        for symbolic in ["u=rwX,go=rX", "a-w", "go=u", "+x", "u+s,+t", "u+r-w", "="] {
            assert_eq!(
                parse_mode(symbolic).unwrap(),
                ModeSpec::Symbolic(symbolic.to_owned())
            );
        }
        for bad in ["10000", "64a", "8", "077777777777777"] {
            assert!(
                matches!(parse_mode(bad), Err(Problem::ChmodNumber { .. })),
                "{bad}"
            );
        }
        for bad in ["", "rwx", "u", "u=rwx,", "z+x", "u+z"] {
            assert!(
                matches!(parse_mode(bad), Err(Problem::ChmodSyntax)),
                "{bad}"
            );
        }
    }

    #[test]
    fn owners_by_number_and_name() {
        let owner = |text| {
            let Owner { user, group } = parse_owner(text);
            (user, group)
        };
        let name = |name: &str| Some(Principal::Name(name.to_owned()));
        assert_eq!(owner("1000"), (Some(Principal::Id(1000)), None));
        assert_eq!(owner("root:staff"), (Some(Principal::Id(0)), name("staff")));
        assert_eq!(owner("a:5"), (name("a"), Some(Principal::Id(5))));
        assert_eq!(
            owner(":5"),
            (Some(Principal::Id(0)), Some(Principal::Id(5)))
        );
    }
}
