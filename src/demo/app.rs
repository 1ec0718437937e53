//! A tiny application: says which version it is, counts what it got, and fails a part of its requests when asked to.
//!
//! Each answer says who gives it, in `app-version` and `app-address`. `/health` is always well; a request with a body gets
//! the body back, so that a client can check both ways; `/after/250ms` is answered that much later.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A body that is given back is held in memory.
const MOST_BODY_BYTES: usize = 1 << 20;

/// What `/after/` is good for: a longer wait is cut to this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One version at work. It ends with the runtime that it was started in.
pub struct App {
    pub address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl App {
    /// Port 0: any free one. Of `fail_one_in` requests one is answered 500; `None`: none is.
    pub async fn start(name: &str, address: SocketAddr, fail_one_in: Option<u64>) -> io::Result<Self> {
        let cannot = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {address} for the {name} version: {error}"))
        };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr()?;
        let name: Arc<str> = name.into();
        let received = Arc::<AtomicU64>::default();
        let count = received.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of descriptors, as a rule: wait for some to come back rather than spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                // Bound to all addresses, it says which one was really called: the pod's own, for example.
                let called = stream.local_addr().unwrap_or(address).to_string();
                let who = Arc::new(Who { name: name.clone(), called });
                let count = count.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let fails = fail_one_in.is_some_and(|n| number % n == n - 1);
                    let who = who.clone();
                    async move { Ok::<_, Infallible>(answer(&who, request, fails).await) }
                });
                tokio::spawn(async move {
                    // A proxy that closes its connection is no event worth telling.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, received })
    }

    /// Requests that have arrived.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

struct Who {
    name: Arc<str>,
    /// The address that the connection was made to.
    called: String,
}

async fn answer(who: &Who, request: Request<Incoming>, fails: bool) -> Response<Full<Bytes>> {
    let name = &who.name;
    let path = request.uri().path();
    if let Some(wait) = path.strip_prefix("/after/").and_then(|wait| humantime::parse_duration(wait).ok()) {
        tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
    }
    let (status, text) = match (path, fails) {
        ("/health", _) => (StatusCode::OK, "ok\n".into()),
        (_, true) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the {name} version has failed\n").into()),
        (_, false) if request.body().is_end_stream() => {
            (StatusCode::OK, format!("hello from the {name} version\n").into())
        }
        (_, false) => match Limited::new(request.into_body(), MOST_BODY_BYTES).collect().await {
            Ok(body) => (StatusCode::OK, body.to_bytes()),
            Err(error) => (StatusCode::BAD_REQUEST, format!("cannot give the body back: {error}\n").into()),
        },
    };
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    // A name that no header can hold is not told in one.
    for (header, value) in [("app-version", &**name), ("app-address", &*who.called)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(header, value);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Head and body of the answer to one request, on a connection of its own.
    async fn ask(address: SocketAddr, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn an_answer_gives_the_body_back_and_says_who_gives_it() {
        let app = App::start("blue", ([127, 0, 0, 1], 0).into(), None).await.unwrap();
        let end = "host: app\r\nconnection: close\r\n";
        let (head, body) = ask(app.address, &format!("GET /after/1ms HTTP/1.1\r\n{end}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\napp-version: blue\r\n"), "{head}");
        assert!(head.contains(&format!("\r\napp-address: {}\r\n", app.address)), "{head}");
        assert_eq!(body, "hello from the blue version\n");
        let (head, body) = ask(app.address, &format!("POST / HTTP/1.1\r\n{end}content-length: 5\r\n\r\nhello")).await;
        assert!(head.contains("\r\napp-version: blue\r\n"), "{head}");
        assert_eq!(body, "hello");
    }
}
