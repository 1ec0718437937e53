//! Asks the admin listener of a proxy that runs: the other end of `explain`.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::token::Token;

/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What every admin listener of ours calls itself, so that others can be told apart.
pub const SERVER_NAME: &str = concat!("splitway/", env!("CARGO_PKG_VERSION"));

/// The body of a successful answer. Errors are for people.
pub async fn ask(admin: SocketAddr, token: Option<&Token>, target: &str, accept: &str) -> Result<String, String> {
    let exchange = tokio::time::timeout(PATIENCE, exchange(admin, token, target, accept, MAX_ANSWER_BYTES)).await;
    let (status, body) = exchange
        .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}").into()))
        .map_err(|error| format!("asking http://{admin}: {error}; is it the admin listener of a proxy that runs?"))?;
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::UNAUTHORIZED => Err(match token {
            None => format!("http://{admin} asks for a token: say --admin-token-file FILE"),
            Some(_) => format!("http://{admin} asks for another token than the one in that file"),
        }),
        _ => Err(format!("http://{admin} answers {status}: {}", super::said(&body))),
    }
}

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Whatever the answer is, if it is an admin listener's. Longer ones are an error.
pub(super) async fn exchange(
    admin: SocketAddr,
    token: Option<&Token>,
    target: &str,
    accept: &str,
    max_bytes: usize,
) -> Result<(StatusCode, String), Error> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, engine) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::get(target)
        .header(header::HOST, admin.to_string())
        .header(header::ACCEPT, accept)
        .header(header::USER_AGENT, SERVER_NAME)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    if let Some(token) = token {
        request.headers_mut().insert(header::AUTHORIZATION, token.bearer());
    }
    // Its end shows in the answer.
    tokio::spawn(async move { drop(engine.await) });
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let server = answer.headers().get(header::SERVER).and_then(|name| name.to_str().ok()).unwrap_or_default();
    if !server.starts_with("splitway/") {
        let server = if server.is_empty() { "something".to_owned() } else { format!("{server:?}") };
        return Err(format!("{server} answers there, with status {status}, and it is not an admin listener").into());
    }
    let body = Limited::new(answer.into_body(), max_bytes).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
