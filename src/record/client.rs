//! Carries spans to a collector over HTTP, with what the proxy has anyway. A connection for each batch: there is one in a few
//! seconds.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};

use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::back;

/// The most of an answer that is read.
const ANSWER: usize = 1 << 20;

pub struct Client {
    /// Where the collector is asked through TLS.
    tls: Option<TlsConnector>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// `tls`: for a collector behind it.
    pub fn new(tls: Option<back::Settings>) -> Result<Self, String> {
        let Some(settings) = tls else { return Ok(Self { tls: None }) };
        let mut read = |file: &Path| std::fs::read(file).map_err(|error| error.to_string());
        let tls =
            settings.load(&mut read, &[]).map_err(|wrong| format!("{}: {}", wrong.file.display(), wrong.message))?;
        Ok(Self { tls: Some(TlsConnector::from(tls.config)) })
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = std::mem::take(request.uri_mut());
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri}: {what}"));
        let authority = uri.authority().ok_or_else(|| wrong("expected a host"))?;
        let secure = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = authority.host().trim_matches(['[', ']']);
        request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
        *request.uri_mut() = uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from);
        let request = request.map(Full::new);
        let stream = TcpStream::connect((host, port)).await?;
        match (&self.tls, secure) {
            (Some(tls), true) => {
                let name = ServerName::try_from(host.to_owned())?;
                exchange(tls.connect(name, stream).await?, request).await
            }
            (_, false) => exchange(stream, request).await,
            (None, true) => Err(wrong("expected http, as at the start").into()),
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
        Ok::<_, HttpError>(Response::from_parts(head, body))
    };
    // The connection moves only while it is asked to, and ends with the answer.
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = answer.as_mut() => answer,
        // What has come is still there; and if nothing has, hyper says why.
        _ = connection => answer.await,
    }
}

impl HttpClient for Client {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.send(request))
    }
}
