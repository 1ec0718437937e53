//! From what was written about TLS to what was meant: files are read, and found to fit.

use std::path::Path;

use http::HeaderName;
use rustls::pki_types::ServerName;

use super::check::{Checking, unreadable};
use super::leaf::{Leaf, OneOf};
use super::problem::{At, Complaint, quoted};
use super::read::Field;
use super::written::{BackTls, Backend, Certificate, Demand, File, FrontTls, Listener, Spoken, TlsOrNone, Upstream};
use crate::route::transport::{Protocol, Transport};
use crate::source::Endpoint;
use crate::tls::{self, Clients, Front, Loaded, Oldest, Pair, Wrong, back, front};

const SUBJECT: HeaderName = HeaderName::from_static("x-client-subject");

impl Checking<'_> {
    /// `None`: in clear, or something is wrong.
    pub(super) fn front(&mut self, listener: &Listener) -> Option<Front> {
        let written = listener.tls.get()?;
        let pairs: Vec<Option<Pair>> =
            written.certificates.get().iter().flat_map(|list| &list.0).map(|one| self.pair(one)).collect();
        let clients = self.clients(written);
        let settings = front::Settings {
            certificates: pairs.into_iter().collect::<Option<_>>()?,
            clients: clients?,
            oldest: written.min_version.or(Oldest::Tls12),
        };
        if settings.certificates.is_empty() {
            return None;
        }
        if let Some(running) = self.beside.running(&settings) {
            return Some(running);
        }
        let items = written.certificates.get().map_or(&[][..], |list| &list.0);
        let loaded: Vec<Option<Loaded>> =
            settings.certificates.iter().zip(items).map(|(pair, item)| self.load(pair, item)).collect();
        let authorities = match (&settings.clients, written.client_ca.get()) {
            (Some(clients), Some(leaf)) => {
                let loaded = clients.load(&mut tls::pem::read);
                Some(loaded.map_err(|wrong| self.blame(&leaf.at, wrong)).ok()?)
            }
            _ => None,
        };
        let made = Front::read(settings, loaded.into_iter().collect::<Option<_>>()?, authorities);
        made.map_err(|error| self.complain(&written.at, Complaint::new(error.to_string()))).ok()
    }

    /// Where a certificate and its key are.
    fn pair(&mut self, written: &Certificate) -> Option<Pair> {
        let Certificate { at, cert, key, secret } = written;
        match (cert, key, secret) {
            (Field::Given(cert), Field::Given(key), Field::Absent) => {
                Some(Pair { certificate: self.folder.join(&cert.value), key: self.folder.join(&key.value) })
            }
            (Field::Absent, Field::Absent, Field::Given(secret)) => {
                Some(Pair::of_secret(&self.folder.join(&secret.value)))
            }
            (Field::Broken, ..) | (_, Field::Broken, _) | (.., Field::Broken) => None,
            _ => {
                let fields = [("cert", cert), ("key", key), ("secret", secret)];
                let given = fields.iter().filter(|(_, field)| !field.is_absent());
                let given: Vec<_> = given.map(|(name, _)| format!("`{name}`")).collect();
                let found = if given.is_empty() { "none of them".to_owned() } else { given.join(" and ") };
                self.complain(at, Complaint::expected("either `cert` and `key`, or `secret`", &found));
                None
            }
        }
    }

    fn load(&mut self, pair: &Pair, written: &Certificate) -> Option<Loaded> {
        let loaded = pair.load(&mut tls::pem::read);
        let place = |wrong: &Wrong| match (&written.cert, &written.key, &written.secret) {
            (.., Field::Given(secret)) => secret.at.clone(),
            (Field::Given(cert), ..) if wrong.file == pair.certificate => cert.at.clone(),
            (_, Field::Given(key), _) => key.at.clone(),
            _ => written.at.clone(),
        };
        loaded.map_err(|wrong| self.blame(&place(&wrong), wrong)).ok()
    }

    /// `None`: something is wrong. `Some(None)`: they are not asked.
    fn clients(&mut self, written: &FrontTls) -> Option<Option<Clients>> {
        if written.client_ca.is_absent() {
            for (name, place) in [
                ("client-certificates", written.client_certificates.get().map(|leaf| &leaf.at)),
                ("subject-header", written.subject_header.get().map(|leaf| &leaf.at)),
            ] {
                let Some(place) = place else { continue };
                let complaint = Complaint::new(format!("`{name}` means nothing without `client-ca`"));
                self.complain(
                    place,
                    complaint.help("add `client-ca` with the file of the authorities of your clients"),
                );
            }
            return Some(None);
        }
        let header = written.subject_header.or(SUBJECT);
        if let Some(leaf) = written.subject_header.get().filter(|leaf| is_taken(&leaf.value)) {
            let complaint = Complaint::new(format!("the header {} means something else", quoted(header.as_str())));
            self.complain(
                &leaf.at,
                complaint.help("choose one of your own, or leave it out: it is x-client-subject then"),
            );
        }
        Some(Some(Clients {
            authorities: self.folder.join(&written.client_ca.get()?.value),
            required: written.client_certificates.or(Demand::Required) == Demand::Required,
            header,
        }))
    }

    pub(super) fn proxy_protocol(&mut self, listener: &Listener, file: &File) -> bool {
        let asked = listener.proxy_protocol.or(false);
        if let Some(leaf) = listener.proxy_protocol.get().filter(|leaf| leaf.value)
            && file.trusted_proxies.get().map_or(file.trusted_proxies.is_absent(), |list| list.0.is_empty())
        {
            let complaint =
                Complaint::new("the PROXY protocol is believed from `trusted-proxies` only, and there is none");
            self.complain(&leaf.at, complaint.help("add `trusted-proxies: [10.0.0.0/8]`, with the addresses of yours"));
        }
        asked
    }

    pub(super) fn redirect_to_tls(&mut self, listener: &Listener) -> Option<u16> {
        let leaf = listener.redirect_to_tls.get()?;
        if let Some(tls) = listener.tls.get() {
            let complaint = Complaint::new("this listener speaks TLS itself, so there is nowhere to redirect to");
            let help = "put `redirect-to-tls` on a listener in clear beside it";
            self.complain(&leaf.at, complaint.also(&tls.at, "TLS is asked for here").help(help));
        }
        u16::try_from(leaf.value).ok()
    }

    /// How the endpoints of a backend (or of all, with a Rollout) are spoken to. `None`: something is wrong.
    pub(super) fn transport(
        &mut self,
        backend: Option<&Backend>,
        upstream: Option<&Upstream>,
        endpoints: &[Endpoint],
    ) -> Option<Transport> {
        let absent = (&Field::Absent, &Field::Absent);
        let own = backend.map_or(absent, |backend| (&backend.protocol, &backend.tls));
        let all = upstream.map_or(absent, |upstream| (&upstream.protocol, &upstream.tls));
        let protocol = if own.0.is_absent() { all.0 } else { own.0 };
        let tls = if own.1.is_absent() { all.1 } else { own.1 };
        if matches!(protocol, Field::Broken) || matches!(tls, Field::Broken) {
            return None;
        }
        let tls = match tls.get() {
            Some(TlsOrNone::Tls(tls)) => Some(&**tls),
            Some(TlsOrNone::None(_)) | None => None,
        };
        self.contradiction(protocol.get(), tls, backend)?;
        let protocol = match protocol.or(Spoken::Http1) {
            Spoken::Http1 => Protocol::Http1,
            Spoken::H2 | Spoken::H2c => Protocol::Http2,
            Spoken::Auto => Protocol::Auto,
        };
        let tls = match tls {
            None => None,
            Some(tls) => Some(self.back(tls, protocol, backend, endpoints)?),
        };
        Some(Transport { protocol, tls })
    }

    /// `None`: the protocol says the opposite of what is said about TLS. Told where the backend says something of its own;
    /// what `upstream` says to all of them alone is told once.
    fn contradiction(
        &mut self,
        protocol: Option<&Leaf<OneOf<Spoken>>>,
        tls: Option<&BackTls>,
        backend: Option<&Backend>,
    ) -> Option<()> {
        let Some(leaf) = protocol else { return Some(()) };
        let (complaint, help) = match (leaf.value, tls) {
            (Spoken::H2c, Some(tls)) => (
                Complaint::new("`h2c` is HTTP/2 in clear, and TLS is asked for as well")
                    .also(&tls.at, "asked for here"),
                "write `protocol: h2` for HTTP/2 over TLS, or leave out `tls` (`tls: none` where `upstream` has it)",
            ),
            (Spoken::H2, None) => (
                Complaint::new("`h2` is HTTP/2 over TLS, and TLS is not asked for"),
                "write `protocol: h2c` for HTTP/2 in clear, or add `tls: {}`, which trusts whom the system trusts",
            ),
            _ => return Some(()),
        };
        let own = backend.filter(|backend| !backend.protocol.is_absent() || !backend.tls.is_absent());
        let at = match own {
            Some(backend) if backend.protocol.is_absent() => backend.tls.get().map_or(&leaf.at, place_of),
            _ => &leaf.at,
        };
        let complaint = complaint.help(help);
        if own.is_some() || !std::mem::replace(&mut self.upstream_is_wrong, true) {
            self.complain(at, complaint);
        }
        None
    }

    fn back(
        &mut self,
        written: &BackTls,
        protocol: Protocol,
        backend: Option<&Backend>,
        endpoints: &[Endpoint],
    ) -> Option<crate::route::transport::Tls> {
        let BackTls { ca, cert, key, server_name, .. } = written;
        let certificate = match (cert, key) {
            (Field::Absent, Field::Absent) => None,
            (Field::Given(cert), Field::Given(key)) => {
                Some(Pair { certificate: self.folder.join(&cert.value), key: self.folder.join(&key.value) })
            }
            (Field::Given(leaf), Field::Absent) | (Field::Absent, Field::Given(leaf)) => {
                let (given, missing) = if key.is_absent() { ("cert", "key") } else { ("key", "cert") };
                let complaint = Complaint::new(format!("expected `{missing}` beside `{given}`, which is missing"));
                self.complain(&leaf.at, complaint.help("a certificate is shown together with proof of its key"));
                return None;
            }
            _ => return None,
        };
        if matches!(ca, Field::Broken) || matches!(server_name, Field::Broken) {
            return None;
        }
        let place = backend.and_then(|backend| backend.endpoints.get()?.0.first()).map_or(&written.at, |leaf| &leaf.at);
        let server_name = match server_name.value() {
            Some(name) => Some(name),
            None => self.name_of(endpoints, place)?,
        };
        let authorities = ca.get().map(|leaf| self.folder.join(&leaf.value));
        let settings = back::Settings { authorities, certificate, server_name, protocol };
        let known = [&self.beside.backs[..], &self.beside.made].concat();
        let loaded = settings.load(&mut |path: &Path| self.beside.read(path), &known);
        match loaded {
            Ok(tls) => {
                self.beside.made.push(tls.clone());
                Some(tls)
            }
            Err(wrong) => {
                let is = |file: Option<&std::path::PathBuf>| file == Some(&wrong.file);
                let pair = settings.certificate.as_ref();
                let at = match () {
                    () if is(settings.authorities.as_ref()) => ca.get().map(|leaf| &leaf.at),
                    () if is(pair.map(|pair| &pair.certificate)) => cert.get().map(|leaf| &leaf.at),
                    () if is(pair.map(|pair| &pair.key)) => key.get().map(|leaf| &leaf.at),
                    () => None,
                };
                self.blame(at.unwrap_or(&written.at), wrong);
                None
            }
        }
    }

    /// The one host name of all endpoints, which their certificates have then. `Some(None)`: they are addresses.
    fn name_of(&mut self, endpoints: &[Endpoint], place: &At) -> Option<Option<ServerName<'static>>> {
        let host = |endpoint: &Endpoint| match endpoint {
            Endpoint::Address(_) => None,
            Endpoint::Name { host, .. } => Some(host.trim_end_matches('.').to_owned()),
        };
        let mut hosts: Vec<Option<String>> = endpoints.iter().map(host).collect();
        hosts.dedup();
        let complaint = match &hosts[..] {
            [] | [None] => return Some(None),
            [Some(host)] => match ServerName::try_from(host.clone()) {
                Ok(name) => return Some(Some(name)),
                Err(_) => Complaint::new(format!("no certificate can have the name {}", quoted(host))),
            },
            _ => Complaint::new("these endpoints have several names, and each would need another certificate"),
        };
        self.complain(
            place,
            complaint.help("add the name that all their certificates have: `tls: { server-name: app.local }`"),
        );
        None
    }

    fn blame(&mut self, at: &At, wrong: Wrong) {
        let complaint = match wrong.message.starts_with("cannot be read") {
            true => unreadable(&wrong.file, &wrong.message),
            false => {
                let file = quoted(&wrong.file.display().to_string());
                Complaint::new(format!("the file {file}: {}", wrong.message)).maybe_help(wrong.help)
            }
        };
        self.complain(at, complaint);
    }
}

fn place_of(tls: &TlsOrNone) -> &At {
    match tls {
        TlsOrNone::Tls(tls) => &tls.at,
        TlsOrNone::None(leaf) => &leaf.at,
    }
}

/// Headers that mean something to HTTP or to us. Others are the operator's to give away.
fn is_taken(header: &HeaderName) -> bool {
    use http::header::*;
    let http = [
        HOST,
        CONNECTION,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        COOKIE,
        AUTHORIZATION,
        DATE,
        EXPECT,
        FORWARDED,
        RANGE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        USER_AGENT,
        VIA,
        ACCEPT,
    ];
    let name = header.as_str();
    http.contains(header)
        || ["keep-alive", "proxy-connection", "baggage", "client-cert", "client-cert-chain"].contains(&name)
        || name.starts_with("x-forwarded-")
        || name.starts_with("splitway-")
}
