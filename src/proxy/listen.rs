//! A listener's sockets: how they are opened, and how they are closed while another process listens on the same port.
//!
//! The kernel chooses one socket of a port for each connection when the handshake begins, and keeps to it. If that one is
//! closed before the handshake ends, the client gets a reset although others listen (unless the kernel was told to move
//! such connections, [`kernel_moves`]). So a socket that shares its port first stops taking part in new handshakes,
//! finishes those that have begun, and only then closes. A client whose first packet was passed over sends it again
//! after a second (RFC 6298 section 2), and comes to a socket that stays.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that may wait to be accepted. The kernel has a bound of its own, `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// For handshakes that have begun: one round trip, and twice that for a client far away. Below the second after which a
/// passed-over packet comes again.
pub const HANDSHAKES: Duration = Duration::from_millis(500);

/// The same address once per worker: the kernel spreads connections over them (`SO_REUSEPORT`).
///
/// Unless it is meant to be `shared` with other processes, a port in use is an error. If it is, nobody is to come here until
/// there is something to serve: then [`begin`].
pub fn open_all(address: SocketAddr, workers: usize, shared: bool) -> io::Result<Vec<TcpListener>> {
    // The first socket is opened alone, so that a port in use is not shared silently, and closed again. The kernel never
    // chooses a shared port for 0, and nobody shall get it in between.
    let chosen = address.port() == 0;
    let first = open(address, chosen || shared)?;
    // An address that was bound is in use only if somebody listens there.
    if !shared {
        begin(&first)?;
    }
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = Vec::from_iter((chosen || shared).then_some(first));
    while sockets.len() < workers {
        let socket = open(address, true)?;
        if !shared {
            begin(&socket)?;
        }
        sockets.push(socket);
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// From here on the kernel gives connections to this socket, too.
pub fn begin(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).listen(BACKLOG)
}

pub fn has_begun(socket: &impl AsFd) -> bool {
    SockRef::from(socket).is_listener().unwrap_or(true)
}

/// From here on no handshake begins at this socket; those that have begun go on. `false`: this system cannot do that.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn begin_no_more(socket: &impl AsFd) -> bool {
    use socket2::SockFilter;
    let op = |code: u32, yes, no, value| SockFilter::new(code as u16, yes, no, value);
    // The kernel asks a socket's filter for each packet, which begins with its TCP header (RFC 9293 section 3.1).
    let program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS_AT),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN | ACK),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    SockRef::from(socket).attach_filter(&program).is_ok()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const FLAGS_AT: u32 = 13;
#[cfg(any(target_os = "linux", target_os = "android"))]
const SYN: u32 = 0x02;
#[cfg(any(target_os = "linux", target_os = "android"))]
const ACK: u32 = 0x10;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn begin_no_more(_: &impl AsFd) -> bool {
    false
}

/// Whether the kernel moves what a closing socket has begun to another one of the same port (Linux 5.14).
pub fn kernel_moves() -> bool {
    std::fs::read("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|set| set.first() == Some(&b'1'))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_port_in_use_is_an_error_unless_it_is_meant_to_be_shared() {
        for first in [false, true] {
            let sockets = open_all(ANYWHERE, 2, first).unwrap();
            sockets.iter().for_each(|socket| begin(socket).unwrap());
            let address = sockets[0].local_addr().unwrap();
            assert_eq!(open_all(address, 2, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(open_all(address, 3, true).unwrap().len(), 3);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_socket_that_begins_no_more_keeps_what_has_come_and_gets_nothing_else() {
        let old = open_all(ANYWHERE, 1, true).unwrap().remove(0);
        begin(&old).unwrap();
        let address = old.local_addr().unwrap();
        let before: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(begin_no_more(&old));
        let heir = open_all(address, 1, true).unwrap().remove(0);
        begin(&heir).unwrap();
        // Passed over by the one or taken by the other, and after a second taken by the other in any case.
        let opening: Vec<_> =
            (0..10).map(|_| std::thread::spawn(move || TcpStream::connect(address).unwrap())).collect();
        // As long as a worker gives them: whatever reaches the old one reaches it in this time.
        std::thread::sleep(HANDSHAKES);
        let taken = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
        assert_eq!(taken(&old), before.len());
        drop(old);
        let opened: Vec<TcpStream> = opening.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(taken(&heir), opened.len());
    }
}
