//! One client connection, from its first byte to its end: what it speaks, and what may end it from outside.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::announced::{self, Announced};
use super::body::AnswerBody;
use super::headers::is_trusted;
use super::socket::Stream;
use super::state::{Client, Phase, State, Verdict};
use super::streams::Streams;
use super::strict::{Bounds, Refusal, Scanner};
use super::tunnel::{Half, Tunnel};
use super::worker::{Aligned, Worker};
use super::{Ending, Failure, Listener, draft, request};
use crate::tls::{self, Front, HandshakeFailure};

/// What a client that speaks HTTP/2 without having agreed on it says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most that is read to find out what a client speaks, in bytes.
const FIRST_READ: usize = 2048;

/// HTTP/2: bytes of a request's body that a client may send ahead of what the application has taken, and bytes of an answer
/// that wait for the client's window. A connection has room for every stream's, so that bodies which an application does not
/// take keep no other request of the connection waiting.
const STREAM_WINDOW: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;

/// HTTP/2: how often a client may make this end reset a stream, in a connection's life. Then the connection ends.
const WRONGED_STREAMS: usize = 200;

/// Serves one connection until its end.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, listener: Rc<Listener>, state: Rc<State>) {
    let (Ok(peer), Ok(local)) = (tcp.peer_addr(), tcp.local_addr()) else { return };
    let (peer, local) = match listener.proxy_protocol {
        false => (peer, local),
        true => match announced(&tcp, peer, &worker, &state).await {
            Ok(Some(Announced::Client { peer, local })) => (peer, local),
            Ok(Some(Announced::Itself)) => (peer, local),
            Ok(None) => return,
            Err(failure) => return worker.cells.refused[failure as usize].add(1),
        },
    };
    let limits = worker.limits(state.port);
    // Kept until the end.
    let _counted = match limits.connections_per_address {
        None => None,
        Some(most) => match worker.gates.from_address(peer.ip(), most) {
            Some(counted) => Some(counted),
            None => return worker.refuse(&tcp, &listener, Failure::AddressLimit),
        },
    };
    let Some(stream) = open(tcp, &listener, limits.handshakes, &worker, &state).await else { return };
    if let Some(most) = limits.requests_per_connection {
        state.ends_after(most);
    }
    let (front, session) = (listener.tls.as_ref(), stream.session());
    let subject = front.and_then(Front::subject_header).cloned().zip(session.and_then(tls::subject));
    let secure = matches!(stream, Stream::Tls(_));
    let http2 = (stream.protocol() == Some(b"h2")).then_some(true).or(secure.then_some(false));
    let client = Client {
        redirect: listener.redirect_to_tls,
        subject,
        subject_headers: listener.subject_headers.clone(),
        ..Client::new(peer, local, secure)
    };
    state.opens(client, worker.now());
    let socket = Socket {
        stream,
        ahead: Vec::new(),
        taken: 0,
        strict: None,
        refusal: None,
        withheld: Vec::new(),
        state: state.clone(),
        worker: worker.clone(),
    };
    let service = {
        let (worker, state) = (worker.clone(), state.clone());
        service_fn(move |request| request::handle(worker.clone(), state.clone(), request))
    };
    let bounds = Bounds { bytes: limits.header_bytes, fields: limits.header_count };
    Connection { speaks: Speaks::Unknown(socket), known: http2, bounds, service: Some(service), state, worker }.await
}

/// What the proxy in front says first. Nothing else is taken off the connection, and nothing is guessed: there is no answer
/// in a language that is not known yet. `None`: it has ended before it said anything, as health checks do.
async fn announced(
    tcp: &TcpStream,
    peer: SocketAddr,
    worker: &Worker,
    state: &State,
) -> Result<Option<Announced>, Failure> {
    let refused = Failure::ProxyProtocol;
    let trusted = |live: Rc<Aligned>| is_trusted(peer.ip().to_canonical(), &live.snapshot.policy().trusted_proxies);
    if !worker.live(state.port).is_some_and(trusted) {
        return Err(refused);
    }
    let mut header = Vec::new();
    let whole = async {
        loop {
            let known = header.len();
            header.resize(announced::LONGEST, 0);
            let come = tcp.peek(&mut header[known..]).await.map_err(|_| refused)?;
            header.truncate(known + come);
            let found = announced::read(&header).map_err(|_| refused)?;
            // What does not settle it belongs to it.
            let end = found.map_or(header.len(), |(_, end)| end);
            if tcp.try_read(&mut header[known..end]).ok() != Some(end - known) {
                return Err(refused);
            }
            match found {
                Some((announced, _)) => return Ok(Some(announced)),
                None if come == 0 && known == 0 => return Ok(None),
                None if come == 0 => return Err(refused),
                None => {}
            }
        }
    };
    in_time(whole, state).await.unwrap_or(Err(refused))
}

/// What comes before HTTP. `None`: it has failed, or takes too long.
async fn open(tcp: TcpStream, listener: &Listener, most: usize, worker: &Worker, state: &State) -> Option<Stream> {
    let Some(front) = &listener.tls else { return Some(Stream::Clear(tcp)) };
    // At once and not later: a queue would let those who say nothing hold up those who do.
    let Some(_begun) = worker.gates.handshake(most) else {
        worker.refuse(&tcp, listener, Failure::HandshakeLimit);
        return None;
    };
    let outcome = match in_time(TlsAcceptor::from(front.current()).accept(tcp), state).await {
        None => Err(HandshakeFailure::Timeout),
        Some(outcome) => outcome.map_err(|error| HandshakeFailure::of(&error)),
    };
    match outcome {
        Ok(stream) => {
            worker.cells.handshake(tls::resumed(stream.get_ref().1));
            Some(Stream::Tls(Box::new(stream.into())))
        }
        Err(failure) => {
            worker.cells.handshake_failure(failure);
            None
        }
    }
}

/// `None`: the connection's end comes first.
async fn in_time<T>(opening: impl Future<Output = T>, state: &State) -> Option<T> {
    let mut opening = std::pin::pin!(opening);
    std::future::poll_fn(|cx| {
        state.note(cx);
        match state.verdict() {
            Some(Verdict::Abort) => Poll::Ready(None),
            _ => opening.as_mut().poll(cx).map(Some),
        }
    })
    .await
}

/// The connection's socket, which notes when the first byte of a head comes, and holds back what is refused.
struct Socket {
    stream: Stream,
    /// What was read to find out what the client speaks, and how much of it has been taken.
    ahead: Vec<u8>,
    taken: usize,
    /// HTTP/1: reads before hyper does.
    strict: Option<Scanner>,
    /// What the client has sent that no other reader shall see.
    refusal: Option<Refusal>,
    /// Those bytes, as far as they were read: after a 101 they are no longer HTTP's.
    withheld: Vec<u8>,
    state: Rc<State>,
    worker: Rc<Worker>,
}

impl Socket {
    /// Reads ahead. Ready: what the client speaks is known; `true` is HTTP/2. A first head of HTTP/1 that comes slowly is
    /// kept here until it is whole, if it is short: hyper's buffers would take ten times the memory.
    fn poll_speaks(&mut self, cx: &mut Context<'_>, bounds: &Bounds) -> Poll<io::Result<bool>> {
        loop {
            let known = self.ahead.len().min(PREFACE.len());
            let speaks_1 = self.ahead[..known] != PREFACE[..known];
            if speaks_1 && (self.ahead.len() >= FIRST_READ || self.has_something_to_say(bounds)) {
                return Poll::Ready(Ok(false));
            }
            if !speaks_1 && known == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            let mut first = [0; FIRST_READ];
            let mut buf = ReadBuf::new(&mut first);
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                // Its end: HTTP/1 has words for a part of a head.
                return Poll::Ready(Ok(false));
            }
            self.state.bytes_come(buf.filled().len(), self.worker.now());
            self.ahead.extend_from_slice(buf.filled());
        }
    }

    /// What precedes an answer. Whenever this is called for a new one, hyper has written everything before it: it flushes
    /// before it asks for the next answer, and no client that was slow to take that is told (`State::hear`).
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.state.interim().borrow_mut();
        while !interim.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &interim);
            self.state.takes(written.is_ready(), self.worker.now());
            match std::task::ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(interim.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether what was read ahead is a whole head of HTTP/1, or is refused already.
    fn has_something_to_say(&self, bounds: &Bounds) -> bool {
        if self.ahead.ends_with(b"\r\n\r\n") {
            return true;
        }
        // A second reader, from the beginning: this happens to those who send a head in pieces, and is short.
        let mut scanner = Scanner::new(*bounds);
        scanner.feed(&self.ahead).is_err() || scanner.heads() > 0
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.takes(written.is_ready(), self.worker.now());
        if written.is_ready() && self.refusal.is_some() {
            // Its answer may have waited for the one before it to leave.
            self.state.wake();
        }
        written
    }

    /// What has been read ahead, or the next bytes.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken < self.ahead.len() {
            let end = self.ahead.len().min(self.taken + buf.remaining());
            buf.put_slice(&self.ahead[self.taken..end]);
            self.taken = end;
            if end == self.ahead.len() {
                (self.ahead, self.taken) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        // HTTP/2: what has come shall become requests, and be answered or refused, before more of it is kept.
        if self.strict.is_none() && self.state.turn_is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let come = buf.filled().len() - before;
        if come > 0 {
            self.state.bytes_come(come, self.worker.now());
        }
        read
    }

    /// What hyper reads instead of refused bytes: an error, which ends the body or the connection. A head is answered here,
    /// after the requests before it.
    fn refuse(&mut self, refusal: Refusal, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !refusal.in_body {
            if !self.state.has_answered(self.strict.as_ref().map_or(0, Scanner::heads)) {
                return Poll::Pending;
            }
            let failure = refusal.violation.failure();
            if self.state.refuses(failure) {
                // One try, and now: hyper closes the connection for writing. A peer that reads nothing is not waited for.
                let words = last_words(failure, refusal.violation.explanation());
                let _ = Pin::new(&mut self.stream).poll_write(cx, &words);
                let _ = Pin::new(&mut self.stream).poll_flush(cx);
            }
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.violation.explanation())))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(refusal) = self.refusal {
            return self.refuse(refusal, cx);
        }
        let before = buf.filled().len();
        let read = self.poll_next(cx, buf);
        if let Some(strict) = &mut self.strict
            && let Err(refusal) = strict.feed(&buf.filled()[before..])
        {
            self.refusal = Some(refusal);
            if !refusal.in_body {
                self.withheld = buf.filled()[before + refusal.passes..].to_vec();
            }
            buf.set_filled(before + refusal.passes);
            if refusal.passes == 0 {
                return self.refuse(refusal, cx);
            }
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.note(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    /// hyper flushes after each look at the request's fate: this is when what precedes an answer leaves. TLS keeps bytes of its
    /// own until then, so that a client that takes nothing may show only here.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_interim(cx))?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.state.takes(flushed.is_ready(), self.worker.now());
        flushed
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.state.takes(shut.is_ready(), self.worker.now());
        shut
    }
}

/// A socket that hyper does not take with it when it is through with HTTP/2: it does not give it back by itself.
#[derive(Clone)]
struct Kept(Rc<RefCell<Socket>>);

impl Kept {
    /// `None`: hyper still has it.
    fn take(self) -> Option<Stream> {
        Rc::into_inner(self.0).map(|socket| socket.into_inner().stream)
    }
}

impl AsyncRead for Kept {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, pieces)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}

/// hyper's connection, and what may end it from outside.
struct Connection<S: HttpService<Incoming>> {
    speaks: Speaks<S>,
    /// Whether it speaks HTTP/2, if both sides have agreed on that.
    known: Option<bool>,
    /// Of a head in HTTP/1.
    bounds: Bounds,
    /// Until it is known who gets it.
    service: Option<S>,
    state: Rc<State>,
    worker: Rc<Worker>,
}

/// What is on the wire.
#[allow(clippy::large_enum_variant, reason = "HTTP/1 is the usual one, and a connection is in one task's box")]
enum Speaks<S: HttpService<Incoming>> {
    /// Nothing has come yet, or too little to tell.
    Unknown(Socket),
    Http1(http1::Connection<TokioIo<Socket>, S>),
    Http2(Box<http2::Connection<TokioIo<Kept>, S, Streams>>, Kept),
    /// After a 101.
    Tunnel(Box<Tunnel>),
    /// HTTP has ended before the client has.
    Nothing(Stream),
    Ended,
}

impl<S> Connection<S>
where
    S: HttpService<Incoming, ResBody = AnswerBody>,
    S::Future: 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn begin(&mut self, mut socket: Socket, http2: bool) {
        let Some(service) = self.service.take() else { return };
        let limits = self.worker.limits(self.state.port);
        self.speaks = if http2 {
            self.state.has_streams(self.worker.now());
            let kept = Kept(Rc::new(RefCell::new(socket)));
            let http = http2::Builder::new(Streams::new(self.worker.clone(), self.state.clone()))
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(STREAM_WINDOW * limits.streams as u32)
                .max_send_buf_size(SEND_BUFFER)
                .max_concurrent_streams(limits.streams as u32)
                .max_local_error_reset_streams(WRONGED_STREAMS)
                .max_header_list_size(limits.header_bytes as u32)
                .serve_connection(TokioIo::new(kept.clone()), service);
            Speaks::Http2(Box::new(http), kept)
        } else {
            socket.strict = Some(Scanner::new(self.bounds));
            let http = http1::Builder::new()
                // One more than the strict reader lets through, so that a head that is too large is refused there.
                .max_buf_size(limits.header_bytes.max(8192) + 1)
                .max_headers(limits.header_count)
                // The tick keeps the head's deadline; hyper's own would be a timer per request.
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(socket), service);
            Speaks::Http1(http)
        };
    }

    /// Takes the stream out of what is on it.
    fn take(&mut self) -> Option<Stream> {
        match std::mem::replace(&mut self.speaks, Speaks::Ended) {
            Speaks::Unknown(socket) => Some(socket.stream),
            Speaks::Http1(http) => Some(http.into_parts().io.into_inner().stream),
            Speaks::Nothing(stream) => Some(stream),
            Speaks::Http2(http, kept) => {
                drop(http);
                kept.take()
            }
            Speaks::Tunnel(_) | Speaks::Ended => None,
        }
    }

    /// The client has its 101. What it has sent behind its request belongs to the tunnel, in the order it came: what hyper
    /// has read, what the strict reader has kept from it, what nobody has taken yet.
    fn switch(&mut self, half: Half) {
        let Speaks::Http1(http) = std::mem::replace(&mut self.speaks, Speaks::Ended) else { return };
        let parts = http.into_parts();
        let socket = parts.io.into_inner();
        let kept = [&socket.withheld[..], &socket.ahead[socket.taken..]].concat();
        let early = if kept.is_empty() { parts.read_buf } else { [&parts.read_buf[..], &kept].concat().into() };
        self.state.enter(Phase::Tunnel, self.worker.now());
        let tunnel = Tunnel::begin(socket.stream, early, half, self.state.clone(), self.worker.clone());
        self.speaks = Speaks::Tunnel(Box::new(tunnel));
    }

    /// hyper is through with an HTTP/1 connection.
    fn end(&mut self, outcome: hyper::Result<()>, cx: &mut Context<'_>) -> Poll<()> {
        // A client that has not taken its 101 gets no tunnel: the rest of it was hyper's, and is gone.
        if let Some(half) = self.state.take_switched()
            && outcome.is_ok()
            && !self.state.is_blocked()
        {
            self.switch(*half);
            return self.poll_http(cx);
        }
        let refused = self.state.refused().or(match &outcome {
            // hyper has answered 400, 414 or 431 by itself; only the count is left to us.
            Err(error) if error.is_parse_too_large() => Some(Failure::HeadTooLarge),
            Err(error) if error.is_parse() => Some(Failure::BadRequest),
            _ => None,
        });
        if let Some(failure) = refused {
            self.worker.cells.refused[failure as usize].add(1);
            draft::refused(&self.worker, &self.state, failure);
        }
        if outcome.as_ref().is_err_and(hyper::Error::is_user) {
            self.cut();
        }
        let stream = self.take();
        if refused.is_some() || (outcome.is_ok() && self.state.is_unread()) {
            self.state.enter(Phase::Lingering, self.worker.now());
            self.speaks = stream.map_or(Speaks::Ended, Speaks::Nothing);
        }
        self.linger(cx)
    }

    /// HTTP/2: why this end has closed the connection, if it has.
    fn count_fault(&self, error: &hyper::Error) {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
        match cause.filter(|cause| cause.is_go_away() && cause.is_library()).and_then(h2::Error::reason) {
            None | Some(h2::Reason::NO_ERROR) => {}
            Some(h2::Reason::ENHANCE_YOUR_CALM) => self.state.ends_by(Ending::Flood),
            Some(_) => self.worker.cells.refused[Failure::BadRequest as usize].add(1),
        }
    }

    /// An answer ends before its time. In HTTP/1.0 it could be taken for a whole one, unless the connection is reset.
    fn cut(&mut self) {
        if self.state.is_old()
            && let Some(stream) = self.take()
        {
            stream.reset_on_close();
        }
    }

    /// A client that is still sending would be sent a reset if the socket were closed now, and could lose the answer
    /// with it (RFC 9112 section 9.6). So what it sends is read, for a while.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Speaks::Nothing(stream) = &mut self.speaks else { return Poll::Ready(()) };
        let mut waste = [0; 16 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut waste);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }

    /// A head that took too long can still be answered, unless the client has not taken the answer before it.
    fn answer_head_timeout(&mut self, cx: &mut Context<'_>) {
        self.worker.cells.refused[Failure::HeadTimeout as usize].add(1);
        draft::refused(&self.worker, &self.state, Failure::HeadTimeout);
        let blocked = self.state.is_blocked();
        if let Some(mut stream) = self.take()
            && !blocked
        {
            // One try: a peer that reads nothing is not waited for.
            let _ = Pin::new(&mut stream)
                .poll_write(cx, &last_words(Failure::HeadTimeout, Failure::HeadTimeout.explanation()));
            let _ = Pin::new(&mut stream).poll_flush(cx);
        }
    }

    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.speaks {
                Speaks::Unknown(socket) => {
                    let http2 = match self.known {
                        Some(known) => known,
                        None => match std::task::ready!(socket.poll_speaks(cx, &self.bounds)) {
                            Ok(http2) => http2,
                            Err(_) => return Poll::Ready(()),
                        },
                    };
                    if let Speaks::Unknown(socket) = std::mem::replace(&mut self.speaks, Speaks::Ended) {
                        self.begin(socket, http2);
                    }
                }
                Speaks::Http1(http) => {
                    return match Pin::new(http).poll(cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(outcome) => self.end(outcome, cx),
                    };
                }
                Speaks::Http2(http, _) => {
                    match std::task::ready!(Pin::new(http).poll(cx)) {
                        Err(error) => self.count_fault(&error),
                        // Requests that came after the last one that is answered: the client sends them again, if it learns
                        // that.
                        Ok(()) => {
                            self.state.enter(Phase::Lingering, self.worker.now());
                            self.speaks = self.take().map_or(Speaks::Ended, Speaks::Nothing);
                        }
                    }
                    return self.linger(cx);
                }
                Speaks::Tunnel(tunnel) => return tunnel.poll(cx),
                Speaks::Nothing(_) | Speaks::Ended => return self.linger(cx),
            }
        }
    }
}

/// An answer written past hyper, to a connection that ends with it.
pub fn last_words(failure: Failure, explanation: &str) -> Vec<u8> {
    let status = failure.status();
    let text = format!("splitway: {}: {explanation}\n", failure.as_str());
    format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         x-splitway-reason: {}\r\ncontent-length: {}\r\n\r\n{text}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        failure.as_str(),
        text.len()
    )
    .into_bytes()
}

impl<S> Future for Connection<S>
where
    S: HttpService<Incoming, ResBody = AnswerBody> + Unpin,
    S::Future: 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.state.note(cx);
        this.state.turn_begins();
        match this.state.verdict() {
            None => {}
            Some(Verdict::Abort) => {
                match &mut this.speaks {
                    Speaks::Tunnel(tunnel) => tunnel.end(cx),
                    _ if this.state.phase() == Phase::Answering => this.cut(),
                    _ => {}
                }
                return Poll::Ready(());
            }
            Some(Verdict::HeadTimeout) => {
                this.answer_head_timeout(cx);
                return Poll::Ready(());
            }
            Some(Verdict::Finish) => {
                // First take what has arrived: a request that is here already shall not be lost.
                if this.poll_http(cx).is_ready() {
                    return Poll::Ready(());
                }
                match &mut this.speaks {
                    // Nor one of which a part is here; its answer will tell the client to leave.
                    Speaks::Http1(http) if this.state.phase() != Phase::Head => Pin::new(http).graceful_shutdown(),
                    Speaks::Http2(http, _) => Pin::new(&mut **http).graceful_shutdown(),
                    Speaks::Unknown(_) if this.state.phase() == Phase::Idle => return Poll::Ready(()),
                    _ => {}
                }
            }
        }
        this.poll_http(cx)
    }
}
