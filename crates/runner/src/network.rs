//! Setting up a new network: bringing up `lo`, by netlink.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

// linux/rtnetlink.h, linux/netlink.h, linux/if.h
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// `lo` is the first interface of every network.
const LOOPBACK_INDEX: u32 = 1;
const MESSAGE_BYTES: u32 = 32;

/// Sets up the network that this thread is alone in, and opens it by its name in `/proc`.
pub(crate) fn set_up(own: &str) -> io::Result<OwnedFd> {
    loopback_up()?;
    Ok(File::open(own)?.into())
}

/// Sets the loopback interface of this process's network up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is 0.
        None,
    )?;
    send(&socket, &set_up_message(), SendFlags::empty())?;
    let mut answer = [0; 256];
    let (got, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    match parse_answer(&answer[..got]) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other(
            "the kernel's answer about `lo` makes no sense",
        )),
    }
}

/// `struct nlmsghdr` and `struct ifinfomsg`
fn set_up_message() -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(MESSAGE_BYTES.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    for field in [LOOPBACK_INDEX, IFF_UP, IFF_UP] {
        message.extend(field.to_ne_bytes());
    }
    message
}

/// `struct nlmsghdr` and the error number of `struct nlmsgerr`, negative there.
fn parse_answer(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(errno.wrapping_neg())
}
