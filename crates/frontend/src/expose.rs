//! `EXPOSE`: ports, ranges and (with a warning) host addresses.

use std::net::IpAddr;

use longshore_dockerfile::check::Rule;
use longshore_dockerfile::quote::quote;

/// Why a port cannot be exposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing before the protocol.
    #[error("invalid port: {}: no port specified", quote(.0))]
    Missing(String),
    /// A protocol other than `tcp`, `udp` and `sctp`.
    #[error("invalid port: {}: invalid proto: {protocol}", quote(.port))]
    Protocol {
        /// As written.
        port: String,
        /// What is no protocol.
        protocol: String,
    },
    /// The address is none.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// The port is none.
    #[error("invalid containerPort: {0}")]
    Container(String),
    /// The host's port is none.
    #[error("invalid hostPort: {0}")]
    Host(String),
    /// Ranges of different lengths.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// In the container.
        container: String,
        /// On the host.
        host: String,
    },
}

/// The ports that a word exposes, as `port/protocol`. `find` hears of what is questionable.
pub(crate) fn parse(
    word: &str,
    mut find: impl FnMut(Rule, String),
) -> Result<Vec<String>, PortError> {
    let (address, host, container) = split(word);
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(PortError::Missing(word.to_owned()));
    }
    let lower = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        lower @ ("tcp" | "udp" | "sctp") => lower.to_owned(),
        _ => {
            let (port, protocol) = (word.to_owned(), protocol.to_owned());
            return Err(PortError::Protocol { port, protocol });
        }
    };
    if protocol != protocol.to_lowercase() {
        find(
            Rule::ExposeProtoCasing,
            format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase"),
        );
    }
    if !address.is_empty() || !host.is_empty() {
        let text = "EXPOSE instruction should not define an IP address or host-port mapping";
        find(Rule::ExposeInvalidFormat, format!("{text}, found '{word}'"));
    }
    check_address(address)?;
    let range = parse_range(container).ok_or_else(|| PortError::Container(container.to_owned()))?;
    check_host(host, container, range)?;
    Ok((range.0..=range.1)
        .map(|port| format!("{port}/{lower}"))
        .collect())
}

/// Address, host port and container port of `[[address:]host:]container`.
fn split(word: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = word.rsplit_once(':') else {
        return ("", "", word);
    };
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    (address, host, container)
}

fn check_address(address: &str) -> Result<(), PortError> {
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if address.is_empty() || bare.unwrap_or(address).parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(PortError::Address(bare.unwrap_or(address).to_owned()))
}

/// A host range is of the same length, unless the container has a single port.
fn check_host(host: &str, container: &str, range: (u16, u16)) -> Result<(), PortError> {
    if host.is_empty() {
        return Ok(());
    }
    let on_host = parse_range(host).ok_or_else(|| PortError::Host(host.to_owned()))?;
    if range.1 - range.0 != on_host.1 - on_host.0 && range.0 != range.1 {
        let (container, host) = (container.to_owned(), host.to_owned());
        return Err(PortError::Ranges { container, host });
    }
    Ok(())
}

/// `80` or `80-90`.
fn parse_range(text: &str) -> Option<(u16, u16)> {
    let Some((first, last)) = text.split_once('-') else {
        let port = parse_port(text)?;
        return Some((port, port));
    };
    let (start, end) = (parse_port(first)?, parse_port(last)?);
    (start <= end).then_some((start, end))
}

fn parse_port(text: &str) -> Option<u16> {
    u16::try_from(text.parse::<i64>().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, expected: Result<&[&str], &str>) {
        let mut rules = Vec::new();
        let ports = parse(word, |rule, _| rules.push(rule)).map_err(|error| error.to_string());
        match (ports, expected) {
            (Ok(ports), Ok(expected)) => assert_eq!(ports, expected),
            (ports, expected) => assert_eq!(ports.err().as_deref(), expected.err(), "{word}"),
        }
    }

    #[test]
    fn ports_and_ranges() {
        check("80", Ok(&["80/tcp"]));
        check("80-82/UDP", Ok(&["80/udp", "81/udp", "82/udp"]));
        check("127.0.0.1:8080:80", Ok(&["80/tcp"]));
        check("[::1]:80:80", Ok(&["80/tcp"]));
        check("::1:80:80", Ok(&["80/tcp"]));
        check("8000-8001:80", Ok(&["80/tcp"]));
        check("80/", Ok(&["80/tcp"]));
    }

    #[test]
    fn what_is_no_port() {
        check("/tcp", Err("invalid port: \"/tcp\": no port specified"));
        check(
            "80/http",
            Err("invalid port: \"80/http\": invalid proto: http"),
        );
        check("x", Err("invalid containerPort: x"));
        check("90-80", Err("invalid containerPort: 90-80"));
        check("65536", Err("invalid containerPort: 65536"));
        check("x:80", Err("invalid hostPort: x"));
        check("a:80:80", Err("invalid IP address: a"));
        check(
            "80-81:90-95",
            Err("invalid ranges specified for container and host Ports: 90-95 and 80-81"),
        );
    }

    #[test]
    fn questionable_forms_are_told() {
        let mut told = Vec::new();
        parse("1.2.3.4:80:80/TCP", |rule, text| told.push((rule, text))).unwrap();
        assert_eq!(told[0].0, Rule::ExposeProtoCasing);
        assert_eq!(told[1].0, Rule::ExposeInvalidFormat);
        assert!(told[1].1.ends_with("found '1.2.3.4:80:80/TCP'"));
    }
}
