//! Asks the admin listener of a proxy that runs: the other end of `explain`.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The body of a successful answer. Errors are for people.
pub async fn ask(admin: SocketAddr, target: &str, accept: &str) -> Result<String, String> {
    let exchange = tokio::time::timeout(PATIENCE, exchange(admin, target, accept, MAX_ANSWER_BYTES)).await;
    let (status, body) = exchange
        .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}").into()))
        .map_err(|error| format!("asking http://{admin}: {error}; is it the admin listener of a proxy that runs?"))?;
    if status == http::StatusCode::OK {
        Ok(body)
    } else {
        Err(format!("http://{admin} answers {status}: {}", body.trim_end()))
    }
}

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Whatever the answer is. Longer ones are an error.
pub(super) async fn exchange(
    admin: SocketAddr,
    target: &str,
    accept: &str,
    max_bytes: usize,
) -> Result<(http::StatusCode, String), Error> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, engine) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(target)
        .header(header::HOST, admin.to_string())
        .header(header::ACCEPT, accept)
        .header(header::USER_AGENT, concat!("splitway/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    // Its end shows in the answer.
    tokio::spawn(async move { drop(engine.await) });
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), max_bytes).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
