//! gRPC through the proxy, byte by byte: what counts as an error, whose time it is, and how it is refused. The gRPC
//! project's own client runs in `tests/conformance`.

use std::time::Duration;

use crate::rules::raw::{Answer, App, Ask, Protocol, Scene, Then, all, fields};

const H2: Protocol = Protocol::H2;
const MESSAGE: &str = "\0\0\0\0\x02hi";

fn call(path: &str) -> Ask {
    Ask::post(path, MESSAGE).with(&[("content-type", "application/grpc"), ("te", "trailers")])
}

fn answer(status: &str) -> Answer {
    Answer { trailers: fields(&[("grpc-status", status)]), ..Answer::ok(MESSAGE) }
        .with(&[("content-type", "application/grpc")])
}

/// How many requests were counted with this status.
async fn counted(scene: &Scene, code: u16) -> f64 {
    let text = scene.proxy.ask_admin("/metrics").await.text();
    let code = format!("code=\"{code}\"");
    let lines = text.lines().filter(|line| line.starts_with("splitway_requests_total{") && line.contains(&code));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn a_call_arrives_with_its_metadata_and_comes_back_with_its_trailers() {
    let scene = Scene::answering((H2, H2), answer("0")).await;
    let got = scene.ask(call("/shop.Cart/Add").with(&[("x-user", "42"), ("blob-bin", "AAEC")])).await;
    assert_eq!((got.status, got.body.as_str()), (200, MESSAGE));
    assert_eq!(all(&got.trailers, "grpc-status"), ["0"]);
    let seen = scene.app.saw_one().await;
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.body.as_str()), ("POST", "/shop.Cart/Add", MESSAGE));
    assert_eq!(
        (seen.all("te"), seen.all("x-user"), seen.all("blob-bin")),
        (vec!["trailers"], vec!["42"], vec!["AAEC"])
    );
}

#[tokio::test]
async fn the_status_in_the_trailers_is_what_is_counted() {
    for (status, code) in
        [("0", 200), ("5", 404), ("8", 429), ("2", 500), ("12", 501), ("13", 500), ("14", 503), ("15", 500)]
    {
        let scene = Scene::answering((H2, H2), answer(status)).await;
        assert_eq!(scene.ask(call("/a.B/C")).await.status, 200);
        assert_eq!(counted(&scene, code).await, 1.0, "grpc-status {status}");
    }
}

#[tokio::test]
async fn an_answer_of_trailers_only_stays_one_and_is_counted() {
    let only =
        Answer::ok("").with(&[("content-type", "application/grpc"), ("grpc-status", "14"), ("grpc-message", "no")]);
    let scene = Scene::answering((H2, H2), only).await;
    let got = scene.ask(call("/a.B/C")).await;
    assert_eq!((got.status, got.all("grpc-status"), got.all("grpc-message")), (200, vec!["14"], vec!["no"]));
    assert!(got.trailers.is_empty() && got.body.is_empty());
    assert_eq!(counted(&scene, 503).await, 1.0);
}

#[tokio::test]
async fn an_answer_without_a_status_is_an_unknown_error() {
    let scene = Scene::answering((H2, H2), Answer::ok(MESSAGE)).await;
    scene.ask(call("/a.B/C")).await;
    assert_eq!(counted(&scene, 500).await, 1.0);
}

#[tokio::test]
async fn what_is_not_grpc_is_counted_by_its_own_status() {
    let scene = Scene::answering((H2, H2), answer("14")).await;
    scene.ask(Ask::post("/", "x").with(&[("content-type", "application/json")])).await;
    assert_eq!(counted(&scene, 200).await, 1.0);
}

#[tokio::test]
async fn a_refusal_is_an_answer_that_clients_of_grpc_understand() {
    let app = App::start(H2, |_| Then::Silence).await;
    let scene = Scene::before(app, (H2, H2), |policy| policy.limits.body_bytes = Some(3)).await;
    let got = scene.ask(call("/a.B/C")).await;
    assert_eq!(
        (got.status, got.all("content-type"), got.all("grpc-status")),
        (200, vec!["application/grpc"], vec!["14"])
    );
    assert!(got.all("grpc-message")[0].starts_with("splitway: body_too_large: "), "{got:?}");
    assert_eq!(got.reason(), "body_too_large");
    assert!(got.trailers.is_empty() && got.body.is_empty(), "trailers-only: {got:?}");
}

#[tokio::test]
async fn the_clients_own_bound_is_kept_before_an_answer() {
    let scene = Scene::with((H2, H2), |_| Then::Silence).await;
    let got = scene.ask(call("/a.B/C").with(&[("grpc-timeout", "200m")])).await;
    assert_eq!((got.status, got.all("grpc-status"), got.reason()), (200, vec!["4"], "request_timeout"));
    assert_eq!(scene.app.saw_one().await.all("grpc-timeout"), ["200m"]);
    assert_eq!(counted(&scene, 504).await, 1.0);
}

#[tokio::test]
async fn the_clients_own_bound_is_kept_within_an_answer() {
    // A head and a message, and then nothing.
    let begun = |stream: u32| {
        use crate::rules::raw;
        let head = fields(&[(":status", "200"), ("content-type", "application/grpc")]);
        [raw::headers(stream, &head, false), raw::data(stream, MESSAGE, false)].concat()
    };
    let scene = Scene::with((H2, H2), move |_| Then::Frames(Box::new(begun))).await;
    let got = scene.ask(call("/a.B/C").with(&[("grpc-timeout", "300m")])).await;
    assert_eq!((got.status, got.body.as_str()), (200, MESSAGE));
    assert_eq!(all(&got.trailers, "grpc-status"), ["4"]);
    assert_eq!(counted(&scene, 504).await, 1.0);
}

#[tokio::test]
async fn the_operators_bound_stands_beside_a_longer_one_of_the_client() {
    let app = App::start(H2, |_| Then::Silence).await;
    let bound = |policy: &mut splitway::route::policy::Policy| {
        policy.timeouts.request = Some(Duration::from_millis(200));
    };
    let scene = Scene::before(app, (H2, H2), bound).await;
    let got = scene.ask(call("/a.B/C").with(&[("grpc-timeout", "1H")])).await;
    assert_eq!((got.all("grpc-status"), got.reason()), (vec!["4"], "request_timeout"));
}
