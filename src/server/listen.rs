//! Listening sockets: one for each shard on the same address (SO_REUSEPORT).

use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Maximum connections waiting to be accepted; the system may allow fewer.
pub(crate) const BACKLOG: i32 = 4096;

/// How long to wait for an address in use. The listeners of a killed broker belong to the kernel for a little longer,
/// until it has ended the accepts in progress.
const FREE_WITHIN: Duration = Duration::from_secs(2);

/// Delay before an address in use is tried again.
const FREE_AGAIN: Duration = Duration::from_millis(10);

/// Opens a listener for each shard on one address; port 0 becomes a free one, the same for all.
///
/// Fails if the address is in use, also by another broker that would share it: the kernel would
/// give half of the connections to each, and nobody would notice.
pub(crate) fn open(address: SocketAddr, shards: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    if address.port() != 0 {
        wait_until_free(address)?;
    }
    let mut listeners = Vec::with_capacity(shards);
    let mut actual = address;
    for _ in 0..shards {
        let listener = bound(actual, Sharing::WithOthers)?;
        listen(&listener, BACKLOG)?;
        actual = SocketAddr::try_from(getsockname(&listener)?)?;
        listeners.push(listener);
    }
    Ok((actual, listeners))
}

/// Checks that nobody listens on the address, by listening alone for a moment.
fn wait_until_free(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + FREE_WITHIN;
    loop {
        let probe = bound(address, Sharing::Alone).and_then(|probe| Ok(listen(&probe, 1)?));
        match probe {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(FREE_AGAIN);
            }
            outcome => return outcome,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithOthers,
}

fn bound(address: SocketAddr, sharing: Sharing) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    // Blocking mode: the ring waits, and would get EAGAIN at once from a non-blocking socket.
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if sharing == Sharing::WithOthers {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if matches!(address, SocketAddr::V6(ip) if ip.ip().is_unspecified()) {
        // `[::]` means every address, of both families.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_refused_even_if_it_is_shared() {
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let (address, listeners) = open(loopback, 2).expect("two listeners");
        assert_eq!(listeners.len(), 2);
        let error = open(address, 1).expect_err("it is in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        open(address, 1).expect("it is free again");
    }
}
