//! What a proxy in front says of a connection before the client's first byte: the PROXY protocol, versions 1 and 2. Pure.
//!
//! It can be said once and only here, so nothing is guessed: what is not exactly as written in HAProxy's
//! `proxy-protocol.txt` is a violation, and the connection is worth nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The most that a header may take, in bytes: version 2 could have 64 KiB of further facts, which nobody reads here.
pub const LONGEST: usize = V2_HEAD + 4096;

/// Section 2.1: the longest line of version 1, with its end.
const V1_LONGEST: usize = 107;
const V1_BEGIN: &[u8] = b"PROXY ";

/// Section 2.2: nothing else that a server hears begins like this.
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// With what kind of connection it is and the length of what follows.
const V2_HEAD: usize = 16;

/// What was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The proxy speaks for itself (it looks whether we are well), or does not know: the connection's own addresses hold.
    Itself,
    Client {
        peer: SocketAddr,
        /// The address the client connected to.
        local: SocketAddr,
    },
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It begins like neither version.
    NotAHeader,
    /// It is longer than allowed.
    TooLong,
    /// Version 1: the line is not as it must be.
    Line,
    /// Version 2: not this version, or an unknown command.
    Command,
    /// Version 2: no kind of connection that could be this one.
    Family,
    /// Version 2: too short for the addresses that it should have.
    TooShort,
}

/// Reads the header at the beginning of `bytes`, and how long it is. `None`: all of this belongs to it, and more must come.
/// It is settled as early as it can be, and what follows does not change it.
pub fn read(bytes: &[u8]) -> Result<Option<(Announced, usize)>, Violation> {
    if begins(bytes, V2_BEGIN) {
        version_2(bytes)
    } else if begins(bytes, V1_BEGIN) {
        version_1(bytes)
    } else {
        Err(Violation::NotAHeader)
    }
}

/// As far as there is something to compare.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let known = bytes.len().min(with.len());
    bytes[..known] == with[..known]
}

fn version_1(bytes: &[u8]) -> Result<Option<(Announced, usize)>, Violation> {
    let Some(end) = bytes.iter().take(V1_LONGEST).position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_LONGEST { Ok(None) } else { Err(Violation::TooLong) };
    };
    let line = bytes[V1_BEGIN.len()..end].strip_suffix(b"\r").ok_or(Violation::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| Violation::Line)?;
    let words: Vec<&str> = line.split(' ').collect();
    let announced = match words[..] {
        // Section 2.1: whatever else the line says is to be ignored.
        ["UNKNOWN", ..] => Announced::Itself,
        ["TCP4", peer, local, peer_port, local_port] => {
            client::<Ipv4Addr>([peer, local], [peer_port, local_port]).ok_or(Violation::Line)?
        }
        ["TCP6", peer, local, peer_port, local_port] => {
            client::<Ipv6Addr>([peer, local], [peer_port, local_port]).ok_or(Violation::Line)?
        }
        _ => return Err(Violation::Line),
    };
    Ok(Some((announced, end + 1)))
}

fn client<A: FromStr + Into<IpAddr>>([peer, local]: [&str; 2], ports: [&str; 2]) -> Option<Announced> {
    let address = |text: &str, of: &str| Some(SocketAddr::new(text.parse::<A>().ok()?.into(), port(of)?));
    Some(Announced::Client { peer: address(peer, ports[0])?, local: address(local, ports[1])? })
}

/// Digits without a sign, and without zeros before them.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn version_2(bytes: &[u8]) -> Result<Option<(Announced, usize)>, Violation> {
    // Each byte is judged when it is there.
    let at = |i: usize| bytes.get(i).copied();
    let proxied = match at(12) {
        None => return Ok(None),
        Some(0x20) => false,
        Some(0x21) => true,
        Some(_) => return Err(Violation::Command),
    };
    let Some(family) = at(13) else { return Ok(None) };
    let addresses = match (proxied, family) {
        // Section 2.2: the family of LOCAL is to be ignored, and so is whatever comes with it.
        (false, _) | (true, 0x00) => 0,
        (true, 0x11) => 12,
        (true, 0x21) => 36,
        // A path of a UNIX socket is no address of a client.
        (true, 0x31) => 216,
        (true, _) => return Err(Violation::Family),
    };
    let (Some(high), Some(low)) = (at(14), at(15)) else { return Ok(None) };
    let length = V2_HEAD + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(Violation::TooLong);
    }
    if length < V2_HEAD + addresses {
        return Err(Violation::TooShort);
    }
    let Some(body) = bytes.get(V2_HEAD..length) else { return Ok(None) };
    // What follows the addresses are further facts, which are skipped.
    let announced = match (proxied, family) {
        (true, 0x11) => pair::<4>(body),
        (true, 0x21) => pair::<16>(body),
        _ => Some(Announced::Itself),
    };
    announced.map(|announced| Some((announced, length))).ok_or(Violation::TooShort)
}

/// Two addresses, then their ports.
fn pair<const N: usize>(body: &[u8]) -> Option<Announced>
where
    IpAddr: From<[u8; N]>,
{
    let (peer, rest) = body.split_first_chunk::<N>()?;
    let (local, rest) = rest.split_first_chunk::<N>()?;
    let (peer_port, rest) = rest.split_first_chunk()?;
    let local_port = rest.first_chunk()?;
    Some(Announced::Client {
        peer: SocketAddr::new(IpAddr::from(*peer), u16::from_be_bytes(*peer_port)),
        local: SocketAddr::new(IpAddr::from(*local), u16::from_be_bytes(*local_port)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_BEGIN, &[command, family], &length, body].concat()
    }

    fn octets(peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
        let ip = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        [ip(peer.ip()), ip(local.ip()), peer.port().to_be_bytes().into(), local.port().to_be_bytes().into()].concat()
    }

    fn client(peer: &str, local: &str) -> Announced {
        Announced::Client { peer: peer.parse().unwrap(), local: local.parse().unwrap() }
    }

    #[test]
    fn the_examples_of_version_1_are_read() {
        for (line, announced) in [
            ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", client("192.168.0.1:56324", "192.168.0.11:443")),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", client("[2001:db8::1]:1", "[::1]:65535")),
            ("PROXY UNKNOWN\r\n", Announced::Itself),
            ("PROXY UNKNOWN whatever it says\r\n", Announced::Itself),
        ] {
            let bytes = format!("{line}GET / HTTP/1.1\r\n");
            assert_eq!(read(bytes.as_bytes()), Ok(Some((announced, line.len()))), "{line}");
        }
    }

    #[test]
    fn a_line_that_could_be_read_in_two_ways_is_refused() {
        for line in [
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
            "PROXY TCP4 192.168.0.1  192.168.0.11 56324 443\r\n",
            "PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 +1 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 01 443\r\n",
            "PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
            "PROXY tcp4 192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY UDP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Err(Violation::Line), "{line}");
        }
        for bytes in ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXY\tTCP4", " PROXY", "\r\n\r\nGET", "\x16\x03\x01"] {
            assert_eq!(read(bytes.as_bytes()), Err(Violation::NotAHeader), "{bytes:?}");
        }
    }

    #[test]
    fn a_line_has_107_bytes_at_most() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert_eq!(read(line(107).as_bytes()), Ok(Some((Announced::Itself, 107))));
        assert_eq!(read(line(108).as_bytes()), Err(Violation::TooLong));
        assert_eq!(read(&line(108).as_bytes()[..106]), Ok(None));
        assert_eq!(read(&line(108).as_bytes()[..107]), Err(Violation::TooLong));
    }

    #[test]
    fn version_2_announces_a_client_or_the_proxy_itself() {
        let four = octets("192.0.2.1:1".parse().unwrap(), "192.0.2.2:443".parse().unwrap());
        let six = octets("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap());
        let facts = [&four[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        for (header, announced) in [
            (v2(0x21, 0x11, &four), client("192.0.2.1:1", "192.0.2.2:443")),
            (v2(0x21, 0x11, &facts), client("192.0.2.1:1", "192.0.2.2:443")),
            (v2(0x21, 0x21, &six), client("[2001:db8::1]:1", "[2001:db8::2]:443")),
            (v2(0x21, 0x31, &[0; 216]), Announced::Itself),
            (v2(0x21, 0x00, &[]), Announced::Itself),
            (v2(0x21, 0x00, &[9; 4096]), Announced::Itself),
            (v2(0x20, 0x00, &[]), Announced::Itself),
            (v2(0x20, 0x11, &four), Announced::Itself),
            (v2(0x20, 0xff, &[1; 5]), Announced::Itself),
        ] {
            let bytes = [&header[..], b"GET"].concat();
            assert_eq!(read(&bytes), Ok(Some((announced, header.len()))), "{header:x?}");
        }
    }

    #[test]
    fn version_2_is_refused_where_it_leaves_something_open() {
        for (header, violation) in [
            (v2(0x11, 0x11, &[0; 12]), Violation::Command),
            (v2(0x22, 0x11, &[0; 12]), Violation::Command),
            (v2(0x31, 0x11, &[0; 12]), Violation::Command),
            // Datagrams, and what nobody has defined.
            (v2(0x21, 0x12, &[0; 12]), Violation::Family),
            (v2(0x21, 0x22, &[0; 36]), Violation::Family),
            (v2(0x21, 0x10, &[0; 12]), Violation::Family),
            (v2(0x21, 0x41, &[0; 12]), Violation::Family),
            (v2(0x21, 0x11, &[0; 11]), Violation::TooShort),
            (v2(0x21, 0x21, &[0; 35]), Violation::TooShort),
            (v2(0x21, 0x31, &[0; 215]), Violation::TooShort),
            (v2(0x21, 0x00, &[0; 4097]), Violation::TooLong),
            (v2(0x20, 0x00, &[0; 65_535]), Violation::TooLong),
        ] {
            assert_eq!(read(&header), Err(violation), "{:x?}", &header[..16]);
        }
    }

    fn address(six: bool) -> BoxedStrategy<SocketAddr> {
        if six {
            any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))).boxed()
        } else {
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))).boxed()
        }
    }

    fn written() -> impl Strategy<Value = (Vec<u8>, Announced)> {
        let pair = any::<bool>().prop_flat_map(|six| (address(six), address(six)));
        (pair, any::<bool>(), vec(any::<u8>(), 0..64)).prop_map(|((peer, local), second, facts)| {
            let name = if peer.is_ipv4() { "TCP4" } else { "TCP6" };
            let bytes = if second {
                let family = if peer.is_ipv4() { 0x11 } else { 0x21 };
                v2(0x21, family, &[octets(peer, local), facts].concat())
            } else {
                let (from, to) = (peer.ip(), local.ip());
                format!("PROXY {name} {from} {to} {} {}\r\n", peer.port(), local.port()).into_bytes()
            };
            (bytes, Announced::Client { peer, local })
        })
    }

    /// Bytes that look like a header for a while.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let changes = vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3);
        (written(), changes, vec(any::<u8>(), 0..32)).prop_map(|((mut bytes, _), changes, more)| {
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.extend(more);
            bytes
        })
    }

    /// What is said of each beginning agrees with what is said of the whole, and an unsettled one is shorter than any bound.
    fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
        let whole = read(bytes);
        for length in 0..=bytes.len() {
            match read(&bytes[..length]) {
                Ok(None) => {
                    prop_assert!(length < LONGEST);
                    if let Ok(Some((_, header))) = whole {
                        prop_assert!(length < header);
                    }
                }
                Ok(Some((announced, header))) => {
                    prop_assert!(header <= length);
                    prop_assert_eq!(whole, Ok(Some((announced, header))));
                }
                Err(violation) => prop_assert_eq!(whole, Err(violation)),
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_wherever_it_is_split((bytes, announced) in written(), more in vec(any::<u8>(), 0..32)) {
            let whole = [&bytes[..], &more].concat();
            prop_assert_eq!(read(&whole), Ok(Some((announced, bytes.len()))));
            for length in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..length]), Ok(None));
            }
        }

        #[test]
        fn a_beginning_never_says_otherwise_than_the_whole(bytes in nearly()) {
            agrees(&bytes)?;
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..256)) {
            agrees(&bytes)?;
        }
    }
}
