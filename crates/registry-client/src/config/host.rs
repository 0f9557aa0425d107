//! Host names: what is a loopback host, and which host serves a registry's name.

use std::net::IpAddr;

/// Docker Hub's name in references, and the host that serves it.
const HUB: &str = "docker.io";
const HUB_SERVER: &str = "registry-1.docker.io";
const HUB_LEGACY: &str = "index.docker.io";

/// The `host[:port]` to connect to for a registry's name.
pub(crate) fn network_authority(host: &str) -> &str {
    match host {
        HUB | HUB_LEGACY => HUB_SERVER,
        other => other,
    }
}

/// Whether the host can only be this machine: `localhost`, `*.localhost` (RFC 6761),
/// 127.0.0.0/8 and `::1`.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = without_port(authority);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            let name = bare.to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// Whether the text is `host[:port]` or `[v6][:port]` and nothing more.
pub(crate) fn is_authority(text: &str) -> bool {
    let host = without_port(text);
    let port_is_valid = match text[host.len()..].strip_prefix(':') {
        None => true,
        Some(port) => port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()),
    };
    let host_is_valid = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    port_is_valid && host_is_valid
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn without_port(authority: &str) -> &str {
    if authority.ends_with(']') {
        return authority;
    }
    authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_is_only_this_machine() {
        for yes in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
            "reg.localhost",
            "LocalHost",
        ] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in [
            "docker.io",
            "localhost.example",
            "127.0.0.1.example",
            "10.0.0.1:5000",
            "[::2]:1",
            "notlocalhost",
        ] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn authorities() {
        for yes in [
            "a",
            "a:1",
            "a.b-c.d:65535",
            "[::1]",
            "[fe80::1]:5000",
            "1.2.3.4",
        ] {
            assert!(is_authority(yes), "{yes}");
        }
        for no in [
            "", ":1", "a:", "a:65536", "a:+1", "a b", "a/b", "[::1", "u@a", "-a", "a..b",
        ] {
            assert!(!is_authority(no), "{no}");
        }
    }

    #[test]
    fn hub_is_served_elsewhere() {
        assert_eq!(network_authority("docker.io"), "registry-1.docker.io");
        assert_eq!(network_authority("docker.io.example"), "docker.io.example");
    }

    proptest! {
        #[test]
        fn host_checks_are_total(text in ".{0,60}") {
            let _ = is_authority(&text);
            let _ = is_loopback(&text);
        }
    }
}
