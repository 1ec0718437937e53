//! A tiny application: says which version it is, counts what it got, and fails a part of its requests when asked to.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
                let (count, name) = (count.clone(), name.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let fails = fail_one_in.is_some_and(|n| number % n == n - 1);
                    let answer = answer(&name, request.uri().path(), fails);
                    async move { Ok::<_, Infallible>(answer) }
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
