//! Endpoints that are names.

use crate::process::{Folder, Serving, canary_is};
use crate::support::App;

fn yaml(stable: &str, canary: &str, percent: u32) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\nbackends:\n  stable: {{ endpoints: [{stable}] }}\n  \
         canary: {{ endpoints: [{canary}] }}\nsplit: {{ stable: {}%, canary: {percent}% }}\n",
        100 - percent
    )
}

#[tokio::test]
async fn a_name_is_as_good_as_an_address() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let names = [&stable, &canary].map(|app| format!("localhost:{}", app.address.port()));
    let proxy = Serving::start(&["--stable", &names[0], "--canary", &format!("{}=50%", names[1])]).await;
    let mut client = proxy.client().await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((stable.received(), canary.received()), (50, 50));
    assert_eq!(proxy.config().await["notes"], serde_json::json!([]));
}

/// RFC 6761 section 6.4: names below `.invalid` never resolve.
#[tokio::test]
async fn a_name_that_does_not_resolve_is_noted_and_the_other_endpoints_serve() {
    let stable = App::start("stable").await;
    let folder = Folder::new();
    let endpoints = format!("\"app.invalid:9001\", \"{}\"", stable.address);
    let file = folder.write("splitway.yaml", &yaml(&endpoints, "\"canary.invalid:9002\"", 50));
    let proxy = Serving::from_file(&file, &[]).await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.app()), (200, "stable"));
    }
    let noted = |config: &serde_json::Value, part: &str| {
        config["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains(part))
    };
    let config = proxy.until("notes", |config| noted(config, "app.invalid:9001 does not resolve")).await;
    assert!(
        noted(&config, "canary.invalid:9002") && noted(&config, "backend canary has no endpoint now"),
        "{config:#}"
    );
    assert_eq!(config["ports"][0]["backends"][0]["endpoints"], serde_json::json!([stable.address.to_string()]));

    // Names do not stand in the way of a change.
    folder.write("splitway.yaml", &yaml(&endpoints, "\"canary.invalid:9002\"", 20));
    proxy.until("20 %", canary_is(20)).await;
    assert_eq!(client.get("/").await.status, 200);
}
