//! What the file says about TLS, and what it means.

use std::path::Path;

use tempfile::TempDir;

use super::{as_json, compiled_schema, declared, here, parse, round_trip};
use crate::config::{Beside, Config, Flags, What, parse_beside};
use crate::proxy::Listener;
use crate::route::transport::{Protocol, Transport};
use crate::source::DeclaredBackend;
use crate::tls::Oldest;
use crate::tls::made_up::{Authority, write};

/// A folder with the files that these tests name.
struct Folder(TempDir, Authority);

impl Folder {
    fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
        for name in ["app", "we", "other"] {
            authority.sign(&[name]).write(folder.path(), name);
        }
        for name in ["clients.pem", "app-ca.pem"] {
            write(folder.path(), name, &authority.pem());
        }
        Self(folder, authority)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn name(&self) -> String {
        self.path().join("splitway.yaml").display().to_string()
    }

    fn good(&self, text: &str) -> Config {
        parse(text, &self.name(), &Flags::default()).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn again(&self, text: &str, beside: &mut Beside) -> Config {
        let config = parse_beside(text, &self.name(), &Flags::default(), beside);
        config.unwrap_or_else(|problems| panic!("{problems}"))
    }
}

const TEXT: &str = r#"
listeners:
  - { address: 127.0.0.1:8080 }
  - { address: 127.0.0.1:8443, tls: { certificates: [{ cert: app.pem, key: app.key }], client-ca: clients.pem } }
backends:
  stable: { protocol: h2c, endpoints: ["127.0.0.1:9001"] }        # http1 (default), h2c, h2, auto
  canary: { tls: { ca: app-ca.pem, server-name: app.local }, endpoints: ["127.0.0.1:9002"] }
"#;

fn transports(config: &Config) -> Vec<Transport> {
    declared(config).backends.into_iter().map(|DeclaredBackend { transport, .. }| transport).collect()
}

fn front(listener: &Listener) -> &crate::tls::front::Settings {
    listener.tls.as_ref().expect("TLS").settings().expect("read from files")
}

#[test]
fn certificates_and_protocols_mean_what_they_say() {
    let folder = Folder::new();
    let config = folder.good(TEXT);
    let [plain, secure] = &config.proxy.listeners[..] else { panic!("two listeners") };
    assert_eq!((&plain.tls, plain.redirect_to_tls, plain.proxy_protocol), (&None, None, false));
    let settings = front(secure);
    assert_eq!(settings.certificates[0].certificate, folder.path().join("app.pem"));
    let clients = settings.clients.as_ref().unwrap();
    assert_eq!((&clients.authorities, clients.required), (&folder.path().join("clients.pem"), true));
    assert_eq!((clients.header.as_str(), settings.oldest), ("x-client-subject", Oldest::Tls12));
    for listener in [plain, secure] {
        assert_eq!(*listener.subject_headers, ["x-client-subject"], "nobody can say it in clear, either");
    }
    let [stable, canary] = &transports(&config)[..] else { panic!("two backends") };
    assert_eq!(stable, &Transport { protocol: Protocol::Http2, tls: None });
    let tls = canary.tls.as_ref().unwrap();
    assert_eq!((canary.protocol, tls.server_name.as_ref().unwrap().to_str()), (Protocol::Http1, "app.local".into()));
    assert_eq!(tls.config.alpn_protocols, [b"http/1.1"]);
}

#[test]
fn what_is_left_out_about_tls_is_what_the_schema_says() {
    let folder = Folder::new();
    let explicit = TEXT.replace(
        "client-ca: clients.pem",
        "client-ca: clients.pem, client-certificates: required, subject-header: x-client-subject, min-version: \"1.2\"",
    );
    assert_eq!(folder.good(TEXT).proxy.listeners, folder.good(&explicit).proxy.listeners);
    let (schema, _) = compiled_schema();
    let properties = &schema["$defs"]["FrontTls"]["properties"];
    for (field, default) in
        [("client-certificates", "required"), ("subject-header", "x-client-subject"), ("min-version", "1.2")]
    {
        assert_eq!(properties[field]["default"], default);
    }
    let other = TEXT.replace(
        "client-ca: clients.pem",
        "client-ca: clients.pem, client-certificates: optional, subject-header: X-Who, min-version: 1.3",
    );
    let config = folder.good(&other);
    let settings = front(&config.proxy.listeners[1]);
    let clients = settings.clients.as_ref().unwrap();
    assert_eq!((clients.required, clients.header.as_str(), settings.oldest), (false, "x-who", Oldest::Tls13));
}

#[test]
fn a_secret_is_a_folder_and_a_listener_may_redirect_or_stand_behind_another_proxy() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("secret")).unwrap();
    let signed = folder.1.sign(&["app"]);
    write(&folder.path().join("secret"), "tls.crt", &signed.certificate);
    write(&folder.path().join("secret"), "tls.key", &signed.key);
    let config = folder.good(
        "trusted-proxies: [10.0.0.0/8]
listeners:
  - { address: ':80', redirect-to-tls: 443, proxy-protocol: true }
  - { address: ':443', tls: { certificates: [{ secret: secret }, { cert: app.pem, key: app.key }] } }
backends: { stable: { endpoints: [':9001'] } }
",
    );
    let [plain, secure] = &config.proxy.listeners[..] else { panic!("two listeners") };
    assert_eq!((plain.redirect_to_tls, plain.proxy_protocol), (Some(443), true));
    assert_eq!(front(secure).certificates[0].key, folder.path().join("secret/tls.key"));
    assert!(secure.subject_headers.is_empty());
}

const LISTENER: &str = "listeners: [{ address: ':0' }]\n";

#[test]
fn a_backend_s_own_words_come_before_those_for_all() {
    let folder = Folder::new();
    let config = folder.good(&format!(
        "{LISTENER}upstream: {{ protocol: h2, tls: {{ ca: app-ca.pem, server-name: all.local }} }}
backends:
  stable: {{ endpoints: [':1'] }}
  canary: {{ endpoints: [':2'], protocol: auto }}
  two: {{ endpoints: [':3'], protocol: h2c, tls: none }}
  three: {{ endpoints: [':4'], tls: {{ ca: app-ca.pem, cert: we.pem, key: we.key }} }}
"
    ));
    let all = transports(&config);
    let alpn = |i: usize| -> Vec<Vec<u8>> { all[i].tls.as_ref().unwrap().config.alpn_protocols.clone() };
    let name = |i: usize| all[i].tls.as_ref().unwrap().server_name.as_ref().map(|name| name.to_str().into_owned());
    assert_eq!((all[0].protocol, alpn(0), name(0)), (Protocol::Http2, vec![b"h2".to_vec()], Some("all.local".into())));
    assert_eq!((all[1].protocol, alpn(1)), (Protocol::Auto, vec![b"h2".to_vec(), b"http/1.1".to_vec()]));
    assert_eq!((all[2].protocol, &all[2].tls), (Protocol::Http2, &None));
    assert_eq!(
        (all[3].protocol, name(3)),
        (Protocol::Http2, None),
        "its own `tls` takes the place of the whole other one"
    );
    assert!(all[3].tls != all[0].tls);
}

#[test]
fn beside_a_rollout_one_word_is_for_all_versions() {
    let folder = Folder::new();
    let config = folder.good(&format!("{LISTENER}rollout: services/shop\nupstream: {{ protocol: h2c }}\n"));
    let What::Rollout(_, overlay) = &config.what else { panic!("{config:?}") };
    assert_eq!(overlay.transport, Some(Transport { protocol: Protocol::Http2, tls: None }));
    let secure = format!("{LISTENER}rollout: services/shop\nupstream: {{ tls: {{ ca: app-ca.pem }} }}\n");
    let What::Rollout(_, overlay) = folder.good(&secure).what else { panic!("{secure}") };
    assert!(overlay.transport.unwrap().tls.is_some_and(|tls| tls.server_name.is_none()), "by the pods' addresses");
}

#[test]
fn certificates_have_the_host_name_of_endpoints_that_are_written_by_name() {
    let folder = Folder::new();
    let name = |endpoints: &str| {
        let text =
            format!("{LISTENER}backends: {{ stable: {{ tls: {{ ca: app-ca.pem }}, endpoints: [{endpoints}] }} }}\n");
        let tls = transports(&folder.good(&text)).remove(0).tls.unwrap();
        tls.server_name.map(|name| name.to_str().into_owned())
    };
    assert_eq!(name("'app.local:1', 'app.local:2'"), Some("app.local".to_owned()));
    assert_eq!(name("'app.local.:1'"), Some("app.local".to_owned()));
    assert_eq!(name("':1', '[::1]:2'"), None);
}

#[test]
fn what_is_printed_about_tls_means_the_same() {
    let folder = Folder::new();
    let absolute = |text: &str| {
        ["app.pem", "app.key", "clients.pem", "app-ca.pem"].iter().fold(text.to_owned(), |text, name| {
            text.replace(&format!(" {name}"), &format!(" {}", folder.path().join(name).display()))
        })
    };
    for text in [
        TEXT.to_owned(),
        TEXT.replace("client-ca: clients.pem", "min-version: 1.3"),
        TEXT.replace("protocol: h2c,", "tls: none,"),
        TEXT.replace("8080 }", "8080, redirect-to-tls: 8443 }"),
    ] {
        let text = absolute(&text);
        let printed = round_trip(Some((&text, &folder.name())), &Flags::default());
        let (_, validator) = compiled_schema();
        for text in [&text.replace(": 1.3", ": \"1.3\""), &printed] {
            let errors: Vec<_> = validator.iter_errors(&as_json(text)).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{text}\n{errors:?}");
        }
    }
}

#[test]
fn a_listener_that_runs_is_that_one_whatever_has_become_of_its_files() {
    let folder = Folder::new();
    let mut beside = Beside::default();
    let started = folder.again(TEXT, &mut beside);
    beside.started(&started);
    std::fs::write(folder.path().join("app.pem"), "broken").unwrap();
    let again = folder.again(TEXT, &mut beside);
    assert_eq!(started.needs_restart(&again), [""; 0]);
    let config = |config: &Config| config.proxy.listeners[1].tls.as_ref().unwrap().current();
    assert!(std::sync::Arc::ptr_eq(&config(&started), &config(&again)));
    let other = TEXT.replace("app.pem, key: app.key", "other.pem, key: other.key");
    assert_eq!(started.needs_restart(&folder.again(&other, &mut beside)).len(), 1, "another file is another listener");
    let problems =
        parse_beside(&TEXT.replace("8443", "8444"), &folder.name(), &Flags::default(), &mut Beside::default());
    assert!(problems.unwrap_err().one_line().contains("app.pem"), "at a start all files are read");
}

#[test]
fn a_file_that_settings_name_is_a_part_of_them() {
    let folder = Folder::new();
    write(folder.path(), "secret", "0123456789abcdef");
    let text = format!(
        "{TEXT}sticky: {{ cookie: {{ secret-file: secret }} }}\nupstream: {{ tls: {{ ca: app-ca.pem, cert: we.pem, key: we.key }} }}\n"
    )
    .replace("{ protocol: h2c,", "{");
    let mut beside = Beside::default();
    let first = folder.again(&text, &mut beside);
    let mut names: Vec<_> =
        beside.files.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["app-ca.pem", "secret", "we.key", "we.pem"], "and none of a listener");
    let before = beside.files.clone();

    let same = folder.again(&text, &mut beside);
    assert_eq!(beside.files, before);
    for (one, other) in transports(&first).iter().zip(transports(&same)) {
        let (one, other) = (one.tls.as_ref().unwrap(), other.tls.unwrap());
        assert!(std::sync::Arc::ptr_eq(&one.config, &other.config), "with its sessions");
    }
    folder.1.sign(&["we"]).write(folder.path(), "we");
    let renewed = folder.again(&text, &mut beside);
    assert_ne!(beside.files, before);
    let stable = |config: &Config| transports(config).remove(0).tls.unwrap();
    assert!(stable(&renewed) != stable(&first), "another certificate of ours is another configuration");
    assert!(transports(&renewed)[1] == transports(&first)[1], "the canary has its own");

    // What is missing is a part, too, so that it is noticed when it comes.
    std::fs::remove_file(folder.path().join("app-ca.pem")).unwrap();
    assert!(parse_beside(&text, &folder.name(), &Flags::default(), &mut beside).is_err());
    assert!(beside.files.iter().any(|(path, _)| path.ends_with("app-ca.pem")));
}

#[test]
fn the_example_of_the_manual_is_good() {
    let manual = std::fs::read_to_string(here("docs/tls.md")).unwrap();
    let folder = Folder::new();
    let examples: Vec<_> = manual.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() > 1, "{examples:?}");
    for text in examples {
        folder.good(text);
    }
}
