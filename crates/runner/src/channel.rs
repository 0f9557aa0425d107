//! Messages between caller, supervisor and sandbox: JSON and descriptors over a socket pair that
//! keeps message boundaries.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The kernel takes 253 descriptors per message (`SCM_MAX_FD`).
pub(crate) const FDS_PER_MESSAGE_MAX: usize = 250;
/// What travels here are short notes; a plan goes through a file.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What [`Channel::receive`] got.
#[derive(Debug)]
pub(crate) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    /// The other end is closed.
    Closed,
}

impl Channel {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    pub(crate) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::other("a message between the stages is too long"));
        }
        // An empty message would look like the end.
        bytes.push(b'\n');
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Whether the other end is closed, which it is at the latest when its holder has ended.
    pub(crate) fn is_closed(&self) -> io::Result<bool> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut polled = [PollFd::new(&self.0, PollFlags::empty())];
        loop {
            match poll(&mut polled, Some(&now)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(other) => return Err(other.into()),
                Ok(_) => return Ok(polled[0].revents().contains(PollFlags::HUP)),
            }
        }
    }

    /// Waits for a message.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Received<T>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
        let mut space =
            vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = loop {
            match recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
                other => break other?,
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 {
            return Ok(Received::Closed);
        }
        if got
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::Error::other(
                "a message between the stages was cut short",
            ));
        }
        Ok(Received::Message(
            serde_json::from_slice(&bytes[..got.bytes])?,
            fds,
        ))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_whole_and_then_the_end() {
        let (one, other) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        one.send(&("first", 1), &[file.as_fd(), file.as_fd()])
            .unwrap();
        one.send(&("second", 2), &[]).unwrap();
        assert!(!other.is_closed().unwrap());
        drop(one);
        assert!(other.is_closed().unwrap(), "also while messages wait");
        let Received::Message(first, fds) = other.receive::<(String, u8)>().unwrap() else {
            panic!("closed")
        };
        assert_eq!((first, fds.len()), (("first".to_owned(), 1), 2));
        assert!(
            matches!(other.receive::<(String, u8)>(), Ok(Received::Message(_, fds)) if fds.is_empty())
        );
        assert!(matches!(
            other.receive::<(String, u8)>(),
            Ok(Received::Closed)
        ));
    }
}
