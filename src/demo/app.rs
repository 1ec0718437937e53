//! A tiny application: says which version it is, counts what it got, and fails a part of its requests when asked to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// One version at work. It ends with the runtime that it was started in.
pub struct App {
    pub address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl App {
    /// Listens on a free loopback port. Of `fail_one_in` requests one is answered 500; `None`: none is.
    pub async fn start(name: &'static str, fail_one_in: Option<u64>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let received = Arc::<AtomicU64>::default();
        let count = received.clone();
        tokio::spawn(async move {
            loop {
                // The only errors are those of a connection that died in the queue, and of no descriptors left.
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let count = count.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let fails = fail_one_in.is_some_and(|n| number % n == n - 1);
                    let path = request.uri().path().to_owned();
                    async move { Ok::<_, Infallible>(answer(name, &path, fails)) }
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

fn answer(name: &str, path: &str, fails: bool) -> Response<Full<Bytes>> {
    let (status, text) = match (path, fails) {
        ("/health", _) => (StatusCode::OK, "ok\n".to_owned()),
        (_, true) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the {name} version has failed\n")),
        (_, false) => (StatusCode::OK, format!("hello from the {name} version\n")),
    };
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}
