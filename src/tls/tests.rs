//! Handshakes in memory: what a client and a listener, or we and an endpoint, come to.

use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CustomExtension, DistinguishedName, DnType, date_time_ymd};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Error, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};
use tempfile::TempDir;

use super::back;
use super::front::Settings;
use super::made_up::{Authority, Signed, files, write};
use super::names::ByName;
use super::*;
use crate::route::transport::{Protocol, Tls};

/// Moves bytes until both have nothing more to say.
fn shake(
    client: Arc<ClientConfig>,
    name: &str,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (mut client, mut server) = (ClientConnection::new(client, name)?, ServerConnection::new(server)?);
    loop {
        let (mut out, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut out).unwrap();
        }
        let mut rest = &out[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut rest = &back[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
        if out.is_empty() && back.is_empty() {
            assert!(!client.is_handshaking() && !server.is_handshaking(), "they wait for each other");
            return Ok((client, server));
        }
    }
}

/// A client that trusts one authority, and perhaps shows a certificate.
fn client(trusts: &Authority, shows: Option<&Signed>) -> Arc<ClientConfig> {
    client_of(trusts, shows, FROM_TLS12)
}

fn client_of(
    trusts: &Authority,
    shows: Option<&Signed>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let roots = front::roots("trusted".as_ref(), trusts.pem().as_bytes()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(signed) => {
            let chain = pem::certificates("shown".as_ref(), signed.certificate.as_bytes()).unwrap();
            let key = pem::key("shown".as_ref(), signed.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![H2.to_vec()];
    Arc::new(config)
}

/// A listener's files, and what it makes of them.
struct World {
    folder: TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("ours") }
    }

    /// Signs anew and writes.
    fn write(&self, name: &str, names: &[&str]) -> Pair {
        self.authority.sign(names).write(self.folder.path(), name)
    }

    fn front(&self, certificates: &[Pair], clients: Option<Clients>) -> Front {
        let settings = Settings { certificates: certificates.to_vec(), clients, oldest: Oldest::Tls12 };
        let loaded = settings.certificates.iter().map(|pair| pair.load(&mut pem::read).unwrap()).collect();
        let authorities = settings.clients.as_ref().map(|clients| clients.load(&mut pem::read).unwrap());
        Front::read(settings, loaded, authorities).unwrap()
    }

    fn clients(&self, authority: &Authority, required: bool) -> Clients {
        let authorities = write(self.folder.path(), "clients.pem", &authority.pem());
        Clients { authorities, required, header: http::HeaderName::from_static("x-client-subject") }
    }
}

/// The names of the certificate that a client gets.
fn shown(world: &World, front: &Front, name: &str) -> Result<Vec<String>, Error> {
    let (client, _) = shake(client(&world.authority, None), name, front.current())?;
    let certificate = &client.peer_certificates().unwrap()[0];
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    Ok(names.value.general_names.iter().map(|name| name.to_string().replace("DNSName(", "").replace(')', "")).collect())
}

#[test]
fn a_name_gets_its_own_certificate_a_wildcard_one_label_and_others_the_first() {
    let world = World::new();
    let pairs = [
        world.write("default", &["default.test"]),
        world.write("wild", &["*.shop.test", "shop.test"]),
        world.write("exact", &["A.shop.test"]),
    ];
    let loaded: Vec<_> = pairs.iter().map(|pair| pair.load(&mut pem::read).unwrap()).collect();
    let names = ByName::new(&loaded);
    for (name, index) in [
        (Some("default.test"), 0),
        (Some("shop.test"), 1),
        (Some("b.shop.test"), 1),
        (Some("B.SHOP.test"), 1),
        (Some("a.shop.test"), 2),
        // A wildcard stands for one label, and not for none.
        (Some("c.b.shop.test"), 0),
        (Some("other.test"), 0),
        (None, 0),
    ] {
        assert_eq!(names.index(name), index, "{name:?}");
    }
    let front = world.front(&pairs, None);
    assert_eq!(shown(&world, &front, "b.shop.test").unwrap(), ["*.shop.test", "shop.test"]);
    assert!(shown(&world, &front, "other.test").is_err(), "the client sees the first one, which has another name");
}

proptest! {
    /// Whoever has a name gets a certificate that has it, as long as there is one.
    #[test]
    fn a_certificate_that_is_chosen_has_the_name_if_any_has_it(
        certificates in proptest::collection::vec(
            proptest::collection::vec("(\\*\\.)?[ab](\\.[ab]){0,2}", 1..4), 1..5),
        asked in "[abAB](\\.[abAB]){0,3}",
    ) {
        let world = World::new();
        // One key is enough: only names count here.
        let loaded = world.write("any", &["any"]).load(&mut pem::read).unwrap();
        let loaded: Vec<_> = certificates.iter().map(|names| {
            let mut one = loaded.clone();
            one.about.names.clone_from(names);
            one
        }).collect();
        let lower = asked.to_ascii_lowercase();
        let has = |names: &Vec<String>| names.iter().any(|name| {
            *name == lower || lower.split_once('.').is_some_and(|(_, rest)| name.strip_prefix("*.") == Some(rest))
        });
        let index = ByName::new(&loaded).index(Some(&asked));
        match certificates.iter().any(has) {
            true => prop_assert!(has(&certificates[index])),
            false => prop_assert_eq!(index, 0),
        }
    }

    /// A subject is always a header, in which nothing stands for itself that could end it or look like another part.
    #[test]
    fn a_subject_is_printable_and_each_part_of_it_can_be_told(name in "\\PC{1,20}|[ -~]{1,20}") {
        let authority = Authority::new("ours");
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "a,b");
        subject.push(DnType::CommonName, name.clone());
        let signed = authority.sign_as(&["client"], subject, |_| {});
        let world = World { folder: tempfile::tempdir().unwrap(), authority };
        let front = world.front(&[world.write("app", &["app"])], Some(world.clients(&world.authority, true)));
        let (_, server) = shake(client(&world.authority, Some(&signed)), "app", front.current()).unwrap();
        let text = subject_of(&server).unwrap();
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", text);
        let value = text.strip_prefix("CN=").and_then(|rest| rest.strip_suffix(r",O=a\,b"));
        prop_assert_eq!(value.map(unescaped), Some(name.into_bytes()), "{}", text);
    }
}

fn subject_of(server: &ServerConnection) -> Option<String> {
    subject(server).map(|value| value.to_str().unwrap().to_owned())
}

/// RFC 4514 section 3, the other way round.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(u8::from_str_radix(&String::from_utf8_lossy(&[*high, *low]), 16).unwrap());
                after
            }
            (b'\\', [plain, after @ ..]) => {
                bytes.push(*plain);
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    bytes
}

#[test]
fn a_subject_begins_with_its_most_specific_part_and_types_without_a_name_are_numbers() {
    let world = World::new();
    let mut name = DistinguishedName::new();
    name.push(DnType::CountryName, "DE");
    name.push(DnType::OrganizationName, "Example & Söhne");
    name.push(DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "a@b");
    name.push(DnType::CommonName, " #1+2");
    let signed = world.authority.sign_as(&["client"], name, |_| {});
    let front = world.front(&[world.write("app", &["app"])], Some(world.clients(&world.authority, false)));
    let (_, server) = shake(client(&world.authority, Some(&signed)), "app", front.current()).unwrap();
    assert_eq!(
        subject_of(&server).unwrap(),
        r"CN=\ #1\+2,1.2.840.113549.1.9.1=#0C03614062,O=Example & S\C3\B6hne,C=DE"
    );
}

#[test]
fn clients_with_a_certificate_are_known_and_others_only_welcome_where_it_is_optional() {
    let (world, strangers) = (World::new(), Authority::new("strangers"));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "shop");
    let known = world.authority.sign_as(&["client"], name, |_| {});
    let stranger = strangers.sign(&["client"]);
    let expired = world.authority.sign_as(&["client"], DistinguishedName::new(), |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let app = world.write("app", &["app"]);
    for required in [true, false] {
        let front = world.front(std::slice::from_ref(&app), Some(world.clients(&world.authority, required)));
        let try_with = |shows: Option<&Signed>| {
            let shaken = shake(client(&world.authority, shows), "app", front.current());
            shaken.map(|(_, server)| subject_of(&server))
        };
        assert_eq!(try_with(Some(&known)), Ok(Some("CN=shop".to_owned())));
        for bad in [&stranger, &expired] {
            assert!(matches!(try_with(Some(bad)), Err(Error::InvalidCertificate(_))), "{required}");
        }
        match required {
            true => assert_eq!(try_with(None), Err(Error::NoCertificatesPresented)),
            false => assert_eq!(try_with(None), Ok(None)),
        }
    }
    let open = world.front(&[app], None);
    let (_, server) = shake(client(&world.authority, Some(&known)), "app", open.current()).unwrap();
    assert_eq!(subject_of(&server), None, "nobody asked for it");
}

#[test]
fn both_versions_and_both_protocols_are_spoken_and_the_oldest_can_be_set() {
    let world = World::new();
    let pair = world.write("app", &["app"]);
    let front = world.front(std::slice::from_ref(&pair), None);
    for (versions, version) in [(FROM_TLS13, ProtocolVersion::TLSv1_3), (&[&TLS12][..], ProtocolVersion::TLSv1_2)] {
        for protocol in [H2, HTTP1] {
            let mut config = ClientConfig::clone(&client_of(&world.authority, None, versions));
            config.alpn_protocols = vec![protocol.to_vec()];
            let (client, server) = shake(Arc::new(config), "app", front.current()).unwrap();
            assert_eq!((client.protocol_version(), server.alpn_protocol()), (Some(version), Some(protocol)));
        }
    }
    let settings = Settings { certificates: vec![pair.clone()], clients: None, oldest: Oldest::Tls13 };
    let strict = Front::read(settings, vec![pair.load(&mut pem::read).unwrap()], None).unwrap();
    let old = shake(client_of(&world.authority, None, &[&TLS12]), "app", strict.current());
    assert!(matches!(old, Err(Error::PeerIncompatible(_))));
    let mut odd = ClientConfig::clone(&client(&world.authority, None));
    odd.alpn_protocols = vec![b"smtp".to_vec()];
    assert!(matches!(shake(Arc::new(odd), "app", front.current()), Err(Error::NoApplicationProtocol)));
}

/// A client, twice at listeners that may have changed in between. Returns how the second handshake went.
fn again(
    world: &World,
    versions: &[&'static SupportedProtocolVersion],
    shows: Option<&Signed>,
    first: &Front,
    then: impl FnOnce(),
    second: &Front,
) -> Result<Option<HandshakeKind>, Error> {
    let mut config = ClientConfig::clone(&client_of(&world.authority, shows, versions));
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let (_, server) = shake(config.clone(), "app", first.current())?;
    assert_eq!(server.handshake_kind().map(|kind| kind != HandshakeKind::Resumed), Some(true));
    then();
    let (_, server) = shake(config, "app", second.current())?;
    assert_eq!(resumed(&server), server.handshake_kind() == Some(HandshakeKind::Resumed));
    Ok(server.handshake_kind())
}

#[test]
fn a_session_is_resumed_by_another_worker_and_after_a_renewal() {
    for versions in [FROM_TLS13, &[&TLS12][..]] {
        let world = World::new();
        let pair = world.write("app", &["app"]);
        let front = world.front(std::slice::from_ref(&pair), None);
        let other_worker = front.clone();
        let outcome = again(&world, versions, None, &front, || {}, &other_worker);
        assert_eq!(outcome, Ok(Some(HandshakeKind::Resumed)));
        let renew = || {
            world.write("app", &["app"]);
            assert_eq!(front.take(&mut pem::read).fresh, std::slice::from_ref(&pair.certificate));
        };
        assert_eq!(again(&world, versions, None, &front, renew, &other_worker), Ok(Some(HandshakeKind::Resumed)));
        let other_listener = world.front(std::slice::from_ref(&pair), None);
        let outcome = again(&world, versions, None, &front, || {}, &other_listener);
        assert_eq!(outcome, Ok(Some(HandshakeKind::Full)), "a ticket opens one listener");
    }
}

#[test]
fn a_session_does_not_outlive_the_authority_of_its_client() {
    for versions in [FROM_TLS13, &[&TLS12][..]] {
        let (world, others) = (World::new(), Authority::new("others"));
        let known = world.authority.sign(&["client"]);
        let front = world.front(&[world.write("app", &["app"])], Some(world.clients(&world.authority, true)));
        let outcome = again(&world, versions, Some(&known), &front, || {}, &front);
        assert_eq!(outcome, Ok(Some(HandshakeKind::Resumed)));
        let change = || {
            world.clients(&others, true);
            assert_eq!(front.take(&mut pem::read).fresh.len(), 1);
        };
        let outcome = again(&world, versions, Some(&known), &front, change, &front);
        assert!(matches!(outcome, Err(Error::InvalidCertificate(_))), "{outcome:?}");
    }
}

#[test]
fn a_broken_pair_is_refused_by_name_while_its_neighbour_is_renewed() {
    let world = World::new();
    let (one, two) = (world.write("one", &["one"]), world.write("two", &["two"]));
    let front = world.front(&[one.clone(), two.clone()], None);
    let before = front.current();
    assert!(front.take(&mut pem::read).fresh.is_empty());
    assert!(Arc::ptr_eq(&before, &front.current()), "nothing has changed");

    std::fs::write(&one.key, "no key").unwrap();
    world.write("two", &["two", "too"]);
    let taken = front.take(&mut pem::read);
    assert_eq!(taken.fresh, [two.certificate]);
    assert_eq!(taken.wrong.iter().map(|wrong| &wrong.file).collect::<Vec<_>>(), [&one.key]);
    assert_eq!(shown(&world, &front, "too").unwrap(), ["two", "too"]);
    assert_eq!(shown(&world, &front, "one").unwrap(), ["one"], "the old one serves on");
    assert!(shake(client(&world.authority, None), "one", before).is_ok(), "so does a handshake that had begun");
}

#[test]
fn what_cannot_be_used_is_told_with_what_was_expected_and_found() {
    let world = World::new();
    let folder = world.folder.path();
    let good = world.authority.sign(&["app"]);
    let other = world.authority.sign(&["app"]);
    let check = |certificate: &str, key: &str, blamed: &str, expected: &str| {
        let signed = Signed { certificate: certificate.to_owned(), key: key.to_owned() };
        let wrong = signed.write(folder, "app").load(&mut pem::read).unwrap_err();
        assert_eq!(wrong.file, folder.join(blamed), "{wrong}");
        assert!(wrong.to_string().contains(expected), "{wrong}");
    };
    check(&good.certificate, &other.key, "app.key", "this key is not that of the certificate in");
    check(&good.key, &good.certificate, "app.pem", "expected a certificate, found `private key`");
    check(&good.certificate, &good.certificate, "app.key", "expected a private key, found `certificate`");
    check("", &good.key, "app.pem", "found an empty file");
    check("hello", &good.key, "app.pem", "found no PEM at all");
    check("0\u{82}DER", &good.key, "app.pem", "found what looks like DER");
    let both = format!("{}{}", good.key, other.key);
    check(&good.certificate, &both, "app.key", "expected one private key, found 2");
    let half = &good.certificate[..good.certificate.len() / 2];
    check(half, &good.key, "app.pem", "broken or cut off");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    check(&good.certificate, encrypted, "app.key", "found an encrypted one");
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(nonsense, &good.key, "app.pem", "expected a certificate (X.509)");
    let missing = files(folder, "missing").load(&mut pem::read).unwrap_err();
    assert!(missing.to_string().contains("missing.pem: cannot be read: No such file"), "{missing}");
    let directory = Pair { certificate: folder.to_owned(), key: folder.to_owned() };
    assert!(directory.load(&mut pem::read).unwrap_err().message.contains("expected a file"));
}

#[test]
fn a_certificate_out_of_its_time_is_used_and_noted() {
    let world = World::new();
    let file = std::path::Path::new("app.pem");
    let signed = world.authority.sign_as(&["app"], DistinguishedName::new(), |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let about = signed.write(world.folder.path(), "app").load(&mut pem::read).unwrap().about;
    let (begin, end) = (1_577_836_800, 1_609_459_200);
    assert_eq!((about.not_before, about.not_after), (begin, end));
    assert_eq!(about.note(file, begin), None);
    assert_eq!(about.note(file, end), None);
    assert!(about.note(file, begin - 60).unwrap().contains("not valid yet, for another 1 min"));
    assert!(about.note(file, end + 3 * 86_400).unwrap().contains("has expired (3 days ago)"));
}

/// What we come to with an endpoint.
fn to_endpoint(tls: &Tls, endpoint: &Front, address: &str) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = tls.server_name.clone().unwrap_or_else(|| ServerName::try_from(address.to_owned()).unwrap());
    shake(tls.config.clone(), &name.to_str(), endpoint.current())
}

#[test]
fn endpoints_are_believed_only_with_the_right_authority_and_name() {
    let (world, strangers) = (World::new(), Authority::new("strangers"));
    let ca = write(world.folder.path(), "ca.pem", &world.authority.pem());
    let other_ca = write(world.folder.path(), "other.pem", &strangers.pem());
    let endpoint = world.front(&[world.write("app", &["app.local", "10.0.0.1"])], None);
    let load = |authorities: Option<&std::path::PathBuf>, name: Option<&str>| {
        let server_name = name.map(|name| ServerName::try_from(name.to_owned()).unwrap());
        let (authorities, protocol) = (authorities.cloned(), Protocol::Auto);
        back::Settings { authorities, certificate: None, server_name, protocol }.load(&mut pem::read, &[]).unwrap()
    };
    let reach = |tls: Tls| to_endpoint(&tls, &endpoint, "10.0.0.1").map(|_| ());
    assert_eq!(reach(load(Some(&ca), Some("app.local"))), Ok(()));
    assert_eq!(reach(load(Some(&ca), None)), Ok(()), "by its address");
    for tls in [load(Some(&other_ca), Some("app.local")), load(Some(&ca), Some("other.local"))] {
        assert!(matches!(reach(tls), Err(Error::InvalidCertificate(_))));
    }
}

#[test]
fn an_endpoint_that_asks_who_we_are_is_shown_our_certificate() {
    let world = World::new();
    let folder = world.folder.path();
    let authorities = Some(write(folder, "ca.pem", &world.authority.pem()));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "splitway");
    let we = world.authority.sign_as(&["we"], name, |_| {}).write(folder, "we");
    let endpoint = world.front(&[world.write("app", &["app"])], Some(world.clients(&world.authority, true)));
    for (certificate, expected) in [(Some(we), Ok(Some("CN=splitway".to_owned()))), (None, Err(()))] {
        let settings = back::Settings {
            authorities: authorities.clone(),
            certificate,
            server_name: Some(ServerName::try_from("app").unwrap()),
            protocol: Protocol::Http2,
        };
        let tls = settings.load(&mut pem::read, &[]).unwrap();
        let shaken = to_endpoint(&tls, &endpoint, "app");
        assert_eq!(shaken.map(|(_, server)| subject_of(&server)).map_err(|_| ()), expected);
    }
}

#[test]
fn what_says_the_same_is_the_same_and_keeps_its_sessions() {
    let world = World::new();
    let ca = write(world.folder.path(), "ca.pem", &world.authority.pem());
    let we = world.write("we", &["we"]);
    let settings = |protocol, certificate: Option<&Pair>| back::Settings {
        authorities: Some(ca.clone()),
        certificate: certificate.cloned(),
        server_name: None,
        protocol,
    };
    let load = |settings: back::Settings, known: &[Tls]| settings.load(&mut pem::read, known).unwrap();
    let first = load(settings(Protocol::Http1, Some(&we)), &[]);
    let again = load(settings(Protocol::Http1, Some(&we)), std::slice::from_ref(&first));
    assert!(Arc::ptr_eq(&first.config, &again.config) && first == again);
    let mut all = vec![first.clone()];
    for (protocol, certificate) in [(Protocol::Http2, Some(&we)), (Protocol::Auto, Some(&we)), (Protocol::Http1, None)]
    {
        all.push(load(settings(protocol, certificate), &all));
    }
    world.write("we", &["we"]);
    all.push(load(settings(Protocol::Http1, Some(&we)), &all));
    write(world.folder.path(), "ca.pem", &Authority::new("other").pem());
    all.push(load(settings(Protocol::Http1, Some(&we)), &all));
    for (i, one) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|other| other != one), "{i} differs in what it was made of");
    }
}

#[test]
fn the_system_s_authorities_do_not_know_ours() {
    let world = World::new();
    let endpoint = world.front(&[world.write("app", &["app.local"])], None);
    let server_name = Some(ServerName::try_from("app.local").unwrap());
    let settings = back::Settings { authorities: None, certificate: None, server_name, protocol: Protocol::Http1 };
    match settings.load(&mut pem::read, &[]) {
        Ok(tls) => assert!(matches!(to_endpoint(&tls, &endpoint, ""), Err(Error::InvalidCertificate(_)))),
        // A machine without any is told so; it never means that everybody is believed.
        Err(wrong) => assert!(wrong.to_string().contains("ca-certificates"), "{wrong}"),
    }
}

#[test]
fn every_failure_of_a_handshake_has_its_word() {
    let failure = |error: Error| HandshakeFailure::of(&std::io::Error::new(std::io::ErrorKind::InvalidData, error));
    let world = World::new();
    let mut server = ServerConnection::new(world.front(&[world.write("app", &["app"])], None).current()).unwrap();
    server.read_tls(&mut &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..]).unwrap();
    assert_eq!(failure(server.process_new_packets().unwrap_err()), HandshakeFailure::NotTls);
    for (error, expected) in [
        (Error::NoApplicationProtocol, HandshakeFailure::Unsupported),
        (Error::NoCertificatesPresented, HandshakeFailure::NoClientCertificate),
        (Error::InvalidCertificate(rustls::CertificateError::Expired), HandshakeFailure::BadClientCertificate),
        (Error::AlertReceived(rustls::AlertDescription::UnknownCA), HandshakeFailure::RefusedByClient),
        (Error::DecryptError, HandshakeFailure::Other),
    ] {
        assert_eq!(failure(error), expected);
    }
    assert_eq!(HandshakeFailure::of(&std::io::ErrorKind::UnexpectedEof.into()), HandshakeFailure::ClientGone);
    let words: std::collections::BTreeSet<_> = HandshakeFailure::ALL.map(HandshakeFailure::as_str).into();
    assert_eq!(words.len(), HandshakeFailure::ALL.len());
    for (i, failure) in HandshakeFailure::ALL.into_iter().enumerate() {
        assert_eq!(failure as usize, i, "it is counted by its place");
    }
}

#[test]
fn an_extension_that_nobody_knows_is_no_reason_to_refuse_a_certificate() {
    let world = World::new();
    let signed = world.authority.sign_as(&["app"], DistinguishedName::new(), |params| {
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    });
    let front = world.front(&[signed.write(world.folder.path(), "app")], None);
    assert_eq!(shown(&world, &front, "app").unwrap(), ["app"]);
}
