use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::route::{Action, Role};

const GOOD: [&str; 3] = ["examples/splitway.yaml", "examples/full.yaml", "examples/probes.yaml"];

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn example(path: &str) -> String {
    std::fs::read_to_string(here(path)).unwrap()
}

fn good(text: &str) -> Config {
    parse(text, "test.yaml", &Flags::default()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: &str) -> Problems {
    match parse(text, "test.yaml", &Flags::default()) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems,
    }
}

/// Two configurations that print the same are the same; expressions have no other way to be compared.
fn same(one: &Config, other: &Config) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

const MINIMAL: &str = "listeners: [{ address: ':0' }]\nbackends: { stable: { endpoints: [':9001'] } }\n";

#[test]
fn the_examples_are_good() {
    for path in GOOD {
        load(&here(path), &Flags::default()).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn the_first_example_means_what_it_says() {
    let config = load(&here("examples/splitway.yaml"), &Flags::default()).unwrap();
    assert_eq!(config.proxy.listeners, [proxy::Listener { address: "127.0.0.1:8080".parse().unwrap() }]);
    assert_eq!(config.admin, Some("127.0.0.1:9090".parse().unwrap()));
    let declared = &config.declared;
    assert_eq!(declared.split.to_string(), "stable 945, canary 55 of 1000");
    let roles: Vec<_> = declared.backends.iter().map(|backend| backend.role).collect();
    assert_eq!(roles, [Role::Stable, Role::Canary]);
    assert_eq!(
        declared.backends[1].endpoints,
        [
            source::Endpoint::Address("127.0.0.1:9002".parse().unwrap()),
            source::Endpoint::Name { host: "app.local".to_owned(), port: 9002 },
        ]
    );
    assert_eq!(declared.routes.len(), 1);
    assert_eq!(declared.routes[0].matches.len(), 2);
    assert!(matches!(&declared.routes[0].action, Action::Send(version) if version.as_str() == "canary"));
    let sticky = declared.sticky.as_ref().unwrap();
    assert_eq!((sticky.keys.len(), sticky.salt.as_str()), (2, "spring"));
    let cookie = sticky.cookie.as_ref().unwrap();
    assert_eq!(cookie.max_age, Some(std::time::Duration::from_secs(86_400)));
}
