//! `host-gateway`: the address at which a process reaches the machine itself, by its network.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use crate::connection::{Connection, Network, NetworkHelper};

/// Where slirp4netns offers what listens on the machine's loopback addresses.
const OF_SLIRP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// An address of documentation (RFC 5737), elsewhere by definition.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// The address.
///
/// # Errors
/// When nothing leads there from that network; what would is said.
pub(crate) fn address(network: Network) -> Result<IpAddr, String> {
    let Connection {
        helper,
        host_loopback,
    } = match network {
        Network::Host => return Ok(Ipv4Addr::LOCALHOST.into()),
        Network::None => return Err("a network of none reaches no host".to_owned()),
        Network::Isolated(connection) => connection,
    };
    match (helper, host_loopback) {
        (Some(NetworkHelper::Slirp4netns), true) => Ok(OF_SLIRP.into()),
        (Some(NetworkHelper::Slirp4netns), false) => of_this_machine(),
        (_, true) => gateway_of(&fs::read_to_string("/proc/net/route").unwrap_or_default())
            .map(IpAddr::from)
            .ok_or_else(|| "this machine has no default gateway".to_owned()),
        (_, false) => Err("with pasta the process has this machine's own addresses: \
             `pasta:allow_host_loopback=true` opens a way to it"
            .to_owned()),
    }
}

/// The address that packets to elsewhere leave with. None is sent.
fn of_this_machine() -> Result<IpAddr, String> {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(ELSEWHERE)?;
        socket.local_addr()
    });
    let found = found.map_err(|error| format!("this machine's address is not known: {error}"))?;
    Ok(found.ip())
}

/// The gateway of the default route: numbers in hexadecimal, in the machine's order of bytes.
fn gateway_of(routes: &str) -> Option<Ipv4Addr> {
    let mut lines = routes.lines().skip(1).map(str::split_whitespace);
    let gateway = lines.find_map(|mut fields| match (fields.nth(1)?, fields.next()?) {
        ("00000000", gateway) if gateway != "00000000" => Some(gateway),
        _ => None,
    })?;
    let bytes = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isolated(helper: NetworkHelper, host_loopback: bool) -> Network {
        Network::Isolated(Connection {
            helper: Some(helper),
            host_loopback,
        })
    }

    #[test]
    fn the_way_to_the_machine_depends_on_the_network() {
        assert_eq!(address(Network::Host).unwrap().to_string(), "127.0.0.1");
        let slirp = address(isolated(NetworkHelper::Slirp4netns, true)).unwrap();
        assert_eq!(slirp.to_string(), "10.0.2.2");
        for (network, says) in [
            (Network::None, "none"),
            (isolated(NetworkHelper::Pasta, false), "allow_host_loopback"),
        ] {
            let why = address(network).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn the_default_gateway_is_read_in_the_kernel_s_form() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let [a, b, c, d] = [192u8, 168, 1, 254];
        let gateway = format!("{:08X}", u32::from_ne_bytes([a, b, c, d]));
        let routes = format!(
            "{head}eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
             eth0\t00000000\t{gateway}\t0003\t0\t0\t0\t00000000\n"
        );
        assert_eq!(gateway_of(&routes), Some(Ipv4Addr::new(a, b, c, d)));
        assert_eq!(gateway_of(head), None);
    }
}
