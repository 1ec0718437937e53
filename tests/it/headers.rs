//! What happens to header fields on their way through.

use http::{HeaderName, Request};
use splitway::route::Routing;
use splitway::route::policy::Policy;

use crate::support::{Answer, App, Client, Proxy, Wire, raw, scripted, two};

/// A proxy before an application that sends back what it received; everything goes to stable.
struct Scene {
    _apps: [App; 2],
    proxy: Proxy,
}

impl Scene {
    async fn with(adjust: impl FnOnce(&mut Policy)) -> Self {
        let apps = [App::start("stable").await, App::start("canary").await];
        let mut routing: Routing = two(&apps[0], &apps[1], (1, 0));
        adjust(&mut routing.policy);
        let proxy = Proxy::start(routing).await;
        Self { _apps: apps, proxy }
    }

    async fn echo(&self, headers: &[(&str, &str)]) -> Echo {
        Echo::of(&self.proxy.client().await.get_with("/echo", headers).await)
    }

    /// The same with a head that is written byte by byte.
    async fn echo_raw(&self, head: &str) -> Echo {
        let mut wire = Wire::connect(self.proxy.address).await;
        wire.send(head).await;
        let answer = wire.end().await;
        assert!(
            answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"),
            "{head:?} was answered {answer:?}"
        );
        Echo::read(answer.split_once("\r\n\r\n").unwrap().1)
    }
}

/// A request as the application saw it.
#[derive(Debug)]
struct Echo {
    line: String,
    headers: Vec<(String, String)>,
}

impl Echo {
    fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self::read(&answer.text())
    }

    fn read(text: &str) -> Self {
        let head = text.split("\n\n").next().unwrap();
        let mut lines = head.lines();
        Self {
            line: lines.next().unwrap().to_owned(),
            headers: lines
                .map(|line| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap())
                .collect(),
        }
    }

    fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a field; panics when there is none or when there are several.
    fn one(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [one] => one,
            ref other => panic!("{name} is {other:?} in {self:?}"),
        }
    }
}

#[tokio::test]
async fn fields_that_concern_one_connection_are_removed() {
    let scene = Scene::with(|_| {}).await;
    let echo = scene
        .echo_raw(
            "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: X-One, x-TWO\r\nX-one: 1\r\nx-Two: 2\r\n\
             CONNECTION: close ,\tx-three,,\r\nX-Three: 3\r\nX-Three: 3\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: gzip\r\nx-kept: yes\r\n\r\n",
        )
        .await;
    for gone in ["connection", "x-one", "x-two", "x-three", "keep-alive", "proxy-connection", "upgrade", "te"] {
        assert_eq!(echo.all(gone), [""; 0], "{gone}");
    }
    assert_eq!(echo.one("x-kept"), "yes");
}

#[tokio::test]
async fn naming_a_field_in_connection_does_not_remove_what_the_proxy_relies_on() {
    let scene = Scene::with(|policy| policy.tell_upstream = true).await;
    let echo = scene
        .echo_raw(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-Request-Id: mine\r\nConnection: close, host, \
             content-length, transfer-encoding, X-Forwarded-For, x-forwarded-host, x-forwarded-proto, \
             x-forwarded-port, forwarded, via, x-request-id, splitway-version, splitway-role, baggage\r\n\r\nhi",
        )
        .await;
    assert_eq!(echo.one("host"), "a");
    assert_eq!(echo.one("content-length"), "2");
    assert_eq!(echo.one("x-request-id"), "mine");
    assert_eq!(echo.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(echo.one("x-forwarded-host"), "a");
    assert_eq!(echo.one("x-forwarded-proto"), "http");
    assert_eq!(echo.one("x-forwarded-port"), scene.proxy.address.port().to_string());
    assert_eq!(echo.one("forwarded"), "for=127.0.0.1;host=\"a\";proto=http");
    assert_eq!(echo.one("via"), "1.1 splitway");
    assert_eq!(echo.one("splitway-version"), "stable");
    assert_eq!(echo.one("splitway-role"), "stable");
}

#[tokio::test]
async fn a_client_that_takes_trailers_may_say_so() {
    let scene = Scene::with(|_| {}).await;
    let echo = scene.echo(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]).await;
    assert_eq!(echo.one("te"), "trailers");
    assert_eq!(echo.one("connection"), "te");
}

#[tokio::test]
async fn forwarding_fields_of_strangers_are_replaced() {
    let scene = Scene::with(|_| {}).await;
    let echo = scene
        .echo(&[
            ("host", "shop.example"),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-for", "203.0.113.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=203.0.113.7"),
        ])
        .await;
    assert_eq!(echo.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(echo.one("x-forwarded-proto"), "http");
    assert_eq!(echo.one("x-forwarded-host"), "shop.example");
    assert_eq!(echo.one("x-forwarded-port"), scene.proxy.address.port().to_string());
    assert_eq!(echo.one("forwarded"), "for=127.0.0.1;host=\"shop.example\";proto=http");
}

#[tokio::test]
async fn forwarding_fields_of_trusted_proxies_grow_by_one() {
    let scene = Scene::with(|policy| policy.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let echo = scene
        .echo(&[
            ("host", "shop.example"),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outside.example"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=203.0.113.7;proto=https"),
        ])
        .await;
    assert_eq!(echo.one("x-forwarded-for"), "203.0.113.7, 10.0.0.1, 127.0.0.1");
    assert_eq!(echo.one("x-forwarded-proto"), "https");
    assert_eq!(echo.one("x-forwarded-host"), "outside.example");
    assert_eq!(echo.one("x-forwarded-port"), "443");
    assert_eq!(echo.one("forwarded"), "for=203.0.113.7;proto=https, for=127.0.0.1;host=\"shop.example\";proto=http");
    let first = scene.echo(&[("host", "shop.example")]).await;
    assert_eq!(first.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(first.one("x-forwarded-proto"), "http");
    assert_eq!(first.one("x-forwarded-host"), "shop.example");
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let scene = Scene::with(|_| {}).await;
    let mut client = scene.proxy.client().await;
    let kept = Echo::of(&client.get_with("/echo", &[("x-request-id", "mine-1")]).await);
    assert_eq!(kept.one("x-request-id"), "mine-1");
    let mut made = std::collections::HashSet::new();
    for _ in 0..50 {
        let echo = Echo::of(&client.get("/echo").await);
        let id = echo.one("x-request-id").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        made.insert(id);
    }
    assert_eq!(made.len(), 50, "no id is made twice");
}

#[tokio::test]
async fn trace_context_and_everything_unknown_pass_unchanged_and_in_order() {
    let scene = Scene::with(|_| {}).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("traceparent", trace),
        ("tracestate", "a=1,b=2"),
        ("baggage", "splitway=theirs, user=7"),
        ("authorization", "Bearer x"),
        ("x-list", "1"),
        ("x-list", "2"),
        ("x-list", "3"),
    ];
    let echo = scene.echo(&headers).await;
    assert_eq!(echo.one("traceparent"), trace);
    assert_eq!(echo.one("tracestate"), "a=1,b=2");
    assert_eq!(echo.one("authorization"), "Bearer x");
    assert_eq!(echo.one("baggage"), "splitway=theirs, user=7", "nobody has asked us to tell anything");
    assert_eq!(echo.all("x-list"), ["1", "2", "3"]);
}

#[tokio::test]
async fn bytes_beyond_ascii_pass_unchanged() {
    let scene = Scene::with(|_| {}).await;
    let echo = scene.echo_raw("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-name: J\u{f6}rg\r\n\r\n").await;
    assert_eq!(echo.one("x-name"), "J\u{f6}rg");
}

#[tokio::test]
async fn the_host_is_kept_and_an_absolute_target_replaces_it() {
    let scene = Scene::with(|_| {}).await;
    assert_eq!(scene.echo(&[("host", "shop.example:8443")]).await.one("host"), "shop.example:8443");
    for (host, expected) in [("[2001:db8::1]:80", "[2001:db8::1]:80"), ("a_b.example", "a_b.example")] {
        assert_eq!(scene.echo(&[("host", host)]).await.one("host"), expected);
    }
    let absolute = scene
        .echo_raw("GET http://shop.example/echo?a=%2f&b HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(absolute.one("host"), "shop.example");
    assert_eq!(absolute.one("x-forwarded-host"), "shop.example");
    assert_eq!(absolute.line, "GET /echo?a=%2f&b");
    // HTTP/1.0 needs no Host; HTTP/1.1 behind us does.
    let old = scene.echo_raw("GET /echo HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.one("host"), scene.proxy.address.to_string());
}

#[tokio::test]
async fn paths_and_queries_pass_as_they_are() {
    let scene = Scene::with(|_| {}).await;
    let mut wire = Wire::connect(scene.proxy.address).await;
    for target in ["/echo?", "/echo?a=b&&c=%zz", "/echo?q=..//%2E%2e/;x", "/echo?{}|~"] {
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        wire.until("\r\n\r\n").await;
        let echo = wire.until("\n\n").await;
        assert!(echo.starts_with(&format!("GET {target}\n")), "{target}: {echo}");
    }
    for target in ["//a//b/../c", "/%2e%2E/a%2Fb", "/a;b=c"] {
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        wire.until("\r\n\r\n").await;
        wire.until("stable").await;
    }
}

#[tokio::test]
async fn via_grows_by_one() {
    let scene = Scene::with(|_| {}).await;
    let echo = scene.echo(&[("via", "1.0 edge")]).await;
    assert_eq!(echo.all("via").join(", "), "1.0 edge, 1.1 splitway");
}

#[tokio::test]
async fn the_version_header_names_the_version_that_answered() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let mut routing = two(&stable, &canary, (1, 1));
    routing.policy.version_header = Some(HeaderName::from_static("x-version"));
    let proxy = Proxy::start(routing).await;
    let mut client = proxy.client().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        let answer = client.get("/").await;
        assert_eq!(answer.header("x-version"), answer.app());
        seen.insert(answer.app().to_owned());
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn the_application_is_told_its_version_and_clients_cannot_pretend() {
    let (stable, canary) = (App::start("stable-1").await, App::start("canary-2").await);
    let mut routing = two(&stable, &canary, (0, 1));
    routing.policy.tell_upstream = true;
    let proxy = Proxy::start(routing).await;
    let answer = proxy
        .client()
        .await
        .get_with(
            "/echo",
            &[
                ("splitway-version", "stable-1"),
                ("Splitway-Role", "stable"),
                ("splitway-role", "stable"),
                ("baggage", "user=7;p=1, splitway=stable;version=stable-1 , splitway = stable"),
                ("baggage", "splitway=stable,team=qa"),
            ],
        )
        .await;
    let echo = Echo::of(&answer);
    assert_eq!(echo.one("splitway-version"), "canary-2");
    assert_eq!(echo.one("splitway-role"), "canary");
    assert_eq!(echo.one("baggage"), "splitway=canary;version=canary-2,user=7;p=1,team=qa");
}

#[tokio::test]
async fn answers_lose_the_fields_of_their_connection_too() {
    let address = scripted(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Private\r\nx-private: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: close\r\nUpgrade: h2c\r\nx-public: 2\r\nServer: app\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let routing = crate::support::routing(&[("stable", splitway::route::Role::Stable, 1, &[address])]);
    let proxy = Proxy::start(routing).await;
    let mut client = Client::connect(proxy.address).await;
    let answer = client.send(Request::get("/")).await;
    for gone in ["connection", "x-private", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!answer.headers.contains_key(gone), "{gone} in {:?}", answer.headers);
    }
    assert_eq!((answer.header("x-public"), answer.header("server"), answer.text().as_str()), ("2", "app", "ok"));
}

#[tokio::test]
async fn a_length_beside_a_coding_does_not_reach_the_client() {
    let address =
        scripted("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
    let routing = crate::support::routing(&[("stable", splitway::route::Role::Stable, 1, &[address])]);
    let proxy = Proxy::start(routing).await;
    let answer = raw(proxy.address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let both = answer.to_lowercase().contains("content-length") && answer.to_lowercase().contains("transfer-encoding");
    assert!(!both, "{answer}");
    // Refusing it would be right as well; what is passed on must be whole.
    assert!(answer.starts_with("HTTP/1.1 502") || answer.contains("hello"), "{answer}");
}
