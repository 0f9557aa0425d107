//! The contents of `/etc/hosts` and `/etc/resolv.conf`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::connection::{Network, NetworkHelper};
use crate::error::RunError;
use crate::gateway;
use crate::spec::{ExtraHost, HostAddress, Resolver, ResolverConfig};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// systemd-resolved's own list, for when `resolv.conf` names nothing but its stub.
const RESOLV_CONF_SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";
const SYSTEMD_STUB: &str = "127.0.0.53";
/// Google's, as Docker and BuildKit use where no other server can be reached.
const NAMESERVERS_DEFAULT: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];

/// `/etc/hosts`, as BuildKit writes it.
pub(crate) fn hosts(
    hostname: &str,
    extra: &[ExtraHost],
    network: Network,
) -> Result<String, RunError> {
    let mut lines =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for ExtraHost { name, address } in extra {
        let address = match address {
            HostAddress::Ip(address) => *address,
            HostAddress::Gateway => gateway::address(network).map_err(|why| RunError::Spec {
                field: "extra_hosts".to_owned(),
                reason: format!("`{name}:{}`: {why}", HostAddress::GATEWAY),
            })?,
        };
        lines.push_str(&format!("{address}\t{name}\n"));
    }
    Ok(lines)
}

/// `/etc/resolv.conf`; `None` leaves the image's.
pub(crate) fn resolv_conf(resolver: &Resolver, network: Network) -> Option<String> {
    let host = || read_host(network);
    match resolver {
        Resolver::Image => None,
        Resolver::Host => Some(for_network(&host(), network)),
        Resolver::Custom(config) => Some(customised(config, &for_network(&host(), network))),
    }
}

/// A host without the file has no name servers; that is not worth failing for.
fn read_host(network: Network) -> String {
    let read = |path| match fs::read_to_string(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path, %error, "name servers are not known");
            String::new()
        }
        other => other.unwrap_or_default(),
    };
    let plain = read(RESOLV_CONF);
    if network != Network::Host && nameservers(&plain).eq([SYSTEMD_STUB]) {
        let listed = read(RESOLV_CONF_SYSTEMD);
        if !listed.is_empty() {
            return listed;
        }
    }
    plain
}

/// In a network of its own a process cannot reach what listens on the host's loopback. A program
/// that connects it passes questions on to the host's first server, if that has an IPv4 address.
fn for_network(file: &str, network: Network) -> String {
    if let Network::Isolated(connection) = network
        && let Some(helper) = connection.helper
        && nameservers(file).any(is_routable_v4)
    {
        let rest = file
            .lines()
            .filter(|it| argument(it, "nameserver").is_none());
        let rest: String = rest.map(|line| format!("{line}\n")).collect();
        return format!("nameserver {}\n{rest}", forwarder(helper));
    }
    let keep = |line: &&str| network == Network::Host || !is_loopback_server(line);
    let mut kept: String = file
        .lines()
        .filter(keep)
        .map(|line| format!("{line}\n"))
        .collect();
    if nameservers(&kept).next().is_none() {
        for server in NAMESERVERS_DEFAULT {
            kept.push_str(&format!("nameserver {server}\n"));
        }
    }
    kept
}

/// Where a helper takes questions for the host's name server.
pub(crate) fn forwarder(helper: NetworkHelper) -> &'static str {
    match helper {
        // Podman's choice: no network has it.
        NetworkHelper::Pasta => "169.254.1.1",
        NetworkHelper::Slirp4netns => "10.0.2.3",
    }
}

fn customised(config: &ResolverConfig, host: &str) -> String {
    let or_host = |own: &[String], keyword| {
        if own.is_empty() {
            values(host, keyword)
        } else {
            own.to_vec()
        }
    };
    let mut file = String::new();
    let search = or_host(&config.search, "search");
    if !search.is_empty() {
        file.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in or_host(&config.nameservers, "nameserver") {
        file.push_str(&format!("nameserver {server}\n"));
    }
    let options = or_host(&config.options, "options");
    if !options.is_empty() {
        file.push_str(&format!("options {}\n", options.join(" ")));
    }
    file
}

fn values(file: &str, keyword: &str) -> Vec<String> {
    let lines = file.lines().filter_map(|line| argument(line, keyword));
    lines
        .flat_map(str::split_ascii_whitespace)
        .map(str::to_owned)
        .collect()
}

fn nameservers(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter_map(|line| argument(line, "nameserver"))
}

fn argument<'line>(line: &'line str, keyword: &str) -> Option<&'line str> {
    let rest = line.trim().strip_prefix(keyword)?;
    rest.starts_with([' ', '\t']).then(|| rest.trim())
}

fn is_routable_v4(server: &str) -> bool {
    let address: Option<Ipv4Addr> = server.parse().ok();
    address.is_some_and(|it| !it.is_loopback())
}

fn is_loopback_server(line: &str) -> bool {
    let address = argument(line, "nameserver").and_then(|it| it.split('%').next()?.parse().ok());
    address.is_some_and(|it: IpAddr| it.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;

    #[test]
    fn hosts_are_buildkit_s() {
        let extra = ExtraHost {
            name: "db".to_owned(),
            address: "10.0.0.7".parse().unwrap(),
        };
        assert_eq!(
            hosts("box", &[extra], Network::Host).unwrap(),
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n"
        );
    }

    #[test]
    fn loopback_servers_are_kept_for_the_host_s_network_only() {
        let file = "# c\nnameserver 127.0.0.1\nnameserver ::1\nnameserver 10.0.0.1\nsearch a b\n";
        assert_eq!(for_network(file, Network::Host), file);
        assert_eq!(
            for_network(file, Network::None),
            "# c\nnameserver 10.0.0.1\nsearch a b\n"
        );
    }

    #[test]
    fn a_helper_passes_questions_on_where_the_host_has_a_server_that_it_can_ask() {
        let by = |helper| {
            Network::Isolated(Connection {
                helper: Some(helper),
                host_loopback: false,
            })
        };
        let file = "search a b\nnameserver 10.0.0.1\nnameserver fd00::1\noptions rotate\n";
        for (helper, server) in [
            (NetworkHelper::Pasta, "169.254.1.1"),
            (NetworkHelper::Slirp4netns, "10.0.2.3"),
        ] {
            assert_eq!(
                for_network(file, by(helper)),
                format!("nameserver {server}\nsearch a b\noptions rotate\n")
            );
        }
        let network = by(NetworkHelper::Pasta);
        assert_eq!(
            for_network("nameserver ::1\nnameserver fd00::1\n", network),
            "nameserver fd00::1\n"
        );
        let servers = for_network("nameserver 127.0.0.1\n", network);
        assert!(nameservers(&servers).eq(NAMESERVERS_DEFAULT), "{servers}");
    }

    #[test]
    fn without_a_server_the_defaults_are_used() {
        for (file, network) in [
            ("", Network::Host),
            ("nameserver 127.0.0.53\n", Network::None),
        ] {
            let servers = for_network(file, network);
            assert!(nameservers(&servers).eq(NAMESERVERS_DEFAULT), "{servers}");
        }
    }

    #[test]
    fn own_settings_win_and_the_rest_is_the_host_s() {
        let config = ResolverConfig {
            nameservers: vec!["1.1.1.1".to_owned()],
            search: Vec::new(),
            options: vec!["ndots:5".to_owned()],
        };
        let host = "search corp.example\nnameserver 10.0.0.1\noptions rotate\n";
        assert_eq!(
            customised(&config, host),
            "search corp.example\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
    }
}
