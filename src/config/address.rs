//! Addresses: to listen on, to connect to, to trust.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use schemars::{Schema, json_schema};

use super::leaf::{Kind, Printed, wrong};
use super::problem::Complaint;
use crate::source::Endpoint;

/// An address to listen on.
#[derive(Clone, Debug)]
pub(super) struct ListenAddress;

impl Kind for ListenAddress {
    type Value = SocketAddr;

    fn what() -> String {
        "an IP address and a port such as `127.0.0.1:8080`, `[::1]:8080` or `:8080`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<SocketAddr, Complaint> {
        if let Some(port) = text.strip_prefix(':').and_then(port) {
            return Ok((Ipv4Addr::UNSPECIFIED, port).into());
        }
        text.parse().map_err(|_| wrong::<Self>(text).maybe_help(address_help(text, 8080)))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^.*:[0-9]{1,5}$" })
    }

    fn print<'a>(value: &SocketAddr, _: &'a str) -> Printed<'a> {
        Printed::Text(value.to_string().into())
    }
}

/// An address to connect to, whose host may be a name.
#[derive(Clone, Debug)]
pub(super) struct EndpointAddress;

impl Kind for EndpointAddress {
    type Value = Endpoint;

    fn what() -> String {
        "a host and a port such as `127.0.0.1:9001`, `[::1]:9001`, `app.local:9001` or `:9001`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<Endpoint, Complaint> {
        let complaint = || wrong::<Self>(text).maybe_help(address_help(text, 9001));
        let endpoint = if let Ok(address) = text.parse() {
            Endpoint::Address(address)
        } else {
            let (host, number) = text.rsplit_once(':').ok_or_else(complaint)?;
            let port = port(number).ok_or_else(complaint)?;
            match host {
                "" => Endpoint::Address((Ipv4Addr::LOCALHOST, port).into()),
                _ if is_host_name(host) => Endpoint::Name { host: host.to_ascii_lowercase(), port },
                _ => return Err(complaint()),
            }
        };
        match endpoint_port(&endpoint) {
            0 => Err(wrong::<Self>(text).help("port 0 cannot be connected to")),
            _ => Ok(endpoint),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^.*:[0-9]{1,5}$" })
    }

    fn print<'a>(value: &Endpoint, _: &'a str) -> Printed<'a> {
        Printed::Text(
            match value {
                Endpoint::Address(address) => address.to_string(),
                Endpoint::Name { host, port } => format!("{host}:{port}"),
            }
            .into(),
        )
    }
}

fn endpoint_port(endpoint: &Endpoint) -> u16 {
    match endpoint {
        Endpoint::Address(address) => address.port(),
        Endpoint::Name { port, .. } => *port,
    }
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// RFC 1123, section 2.1, with the underscores that many resolvers know. The last label is not a number, because what
/// ends in one is meant as an IPv4 address.
fn is_host_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let last = labels.rsplit('.').next().unwrap_or("");
    host.len() <= 253
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// What to do about the mistakes that addresses often have.
fn address_help(text: &str, example: u16) -> Option<String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or(rest);
        return Some(format!("leave out `{scheme}://` and any path: `{rest}`"));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("write `:{text}` for port {text}"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("put an IPv6 address into brackets, before its port: `[::1]:{example}`"));
    }
    if text.ends_with(']') {
        return Some(format!("add a port: `{text}:{example}`"));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(format!("add a port: `{}`", SocketAddr::new(ip, example)));
    }
    match text.rsplit_once(':') {
        None if is_host_name(text) => Some(format!("add a port: `{text}:{example}`")),
        Some((_, number)) if port(number).is_none() => Some("a port is a number from 0 to 65535".to_owned()),
        Some((host, number)) if is_host_name(host) => {
            Some(format!("names are not looked up here: write an address, such as `127.0.0.1:{number}`"))
        }
        _ => None,
    }
}

/// An address range, or one address.
#[derive(Clone, Debug)]
pub(super) struct Network;

impl Kind for Network {
    type Value = IpNet;

    fn what() -> String {
        "an address range such as `10.0.0.0/8` or `::1/128`".to_owned()
    }

    fn parse(text: &str, _: bool) -> Result<IpNet, Complaint> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| wrong::<Self>(text))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$" })
    }
}
