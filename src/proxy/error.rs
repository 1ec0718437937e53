//! What can go wrong with a request, as a closed list: each failure has its word, its status, its side and whether another
//! try is safe. There is no wildcard in any table, so a new failure cannot be forgotten in one of them.

use http::StatusCode;

/// The word is what operators see: in the answer's `x-splitway-reason`, in metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Failure {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// CONNECT and TRACE are not proxied.
    MethodRefused,
    /// The request target is longer than `limits.target-bytes`.
    TargetTooLong,
    /// The head is larger than `limits.header-bytes`, or has more lines than `limits.header-count`.
    HeadTooLarge,
    /// The body is larger than `limits.body-bytes`.
    BodyTooLarge,
    /// The head did not arrive within `timeouts.head`.
    HeadTimeout,
    /// More client connections than `limits.connections`.
    ConnectionLimit,
    /// Nothing is known about the application yet.
    NotReady,
    /// The version has no endpoint.
    NoEndpoint,
    /// An endpoint refused the connection.
    ConnectRefused,
    /// An endpoint did not accept the connection within `timeouts.connect`.
    ConnectTimeout,
    /// The connection ended before any byte of the answer.
    UpstreamClosed,
    /// The answer is not HTTP that could be passed on.
    UpstreamInvalid,
    /// No head of an answer within `timeouts.first-byte`.
    FirstByteTimeout,
    /// The answer did not end within `timeouts.request`.
    RequestTimeout,
    /// The answer was cut while its body was passed on.
    UpstreamCut,
    /// The client went away before its answer was complete.
    ClientGone,
    /// No further byte of the body came within `timeouts.first-byte`.
    BodyTimeout,
    /// No further byte of the answer came within `timeouts.between-bytes`.
    IdleTimeout,
    /// More requests for an endpoint than `limits.endpoint-requests` and `limits.queue`, or longer in the queue than
    /// `timeouts.queue`.
    Overflow,
    /// The handshake of TLS with an endpoint has failed: its certificate is not trusted, or it does not speak what it should.
    UpstreamTls,
    /// An HTTP/2 endpoint has not looked at the request: it refused the stream, or was about to close the connection.
    StreamRefused,
    /// A version of HTTP that is not spoken here.
    VersionRefused,
    /// A transfer coding that is not known.
    CodingRefused,
    /// An OPTIONS request that may not be forwarded any further, and is answered in the application's place.
    MaxForwards,
    /// A connection that should begin with a PROXY protocol header from a trusted proxy, and does not.
    ProxyProtocol,
    /// More connections of one client than `limits.connections-per-address`.
    AddressLimit,
    /// More handshakes of TLS at once than `limits.handshakes`.
    HandshakeLimit,
    /// The process has had no descriptors for a while.
    NoDescriptors,
}

/// The limit by which a connection has ended that had been served until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// It has had `limits.requests-per-connection`.
    RequestLimit,
    /// Its client floods it with frames, or with requests that it gives up at once or that cannot be passed on.
    Flood,
}

impl Ending {
    pub const ALL: [Ending; 2] = [Ending::RequestLimit, Ending::Flood];

    pub fn as_str(self) -> &'static str {
        match self {
            Ending::RequestLimit => "request_limit",
            Ending::Flood => "flood",
        }
    }
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
    Ours,
}

/// May the request be sent again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nothing was sent: always.
    Unsent,
    /// Some of it may have arrived: only if doing it twice means doing it once (RFC 9110 section 9.2.2).
    IfIdempotent,
    Never,
}

impl Failure {
    pub const ALL: [Failure; 29] = [
        Failure::BadRequest,
        Failure::MethodRefused,
        Failure::TargetTooLong,
        Failure::HeadTooLarge,
        Failure::BodyTooLarge,
        Failure::HeadTimeout,
        Failure::ConnectionLimit,
        Failure::NotReady,
        Failure::NoEndpoint,
        Failure::ConnectRefused,
        Failure::ConnectTimeout,
        Failure::UpstreamClosed,
        Failure::UpstreamInvalid,
        Failure::FirstByteTimeout,
        Failure::RequestTimeout,
        Failure::UpstreamCut,
        Failure::ClientGone,
        Failure::BodyTimeout,
        Failure::IdleTimeout,
        Failure::Overflow,
        Failure::UpstreamTls,
        Failure::StreamRefused,
        Failure::VersionRefused,
        Failure::CodingRefused,
        Failure::MaxForwards,
        Failure::ProxyProtocol,
        Failure::AddressLimit,
        Failure::HandshakeLimit,
        Failure::NoDescriptors,
    ];

    pub fn as_str(self) -> &'static str {
        self.table().0
    }

    /// What the client is answered, if it can still be answered.
    pub fn status(self) -> StatusCode {
        self.table().1
    }

    pub fn side(self) -> Side {
        self.table().2
    }

    pub fn again(self) -> Again {
        self.table().3
    }

    /// In how many seconds the client may try again, if that is known.
    pub fn retry_after(self) -> Option<u32> {
        (self == Failure::Overflow).then_some(1)
    }

    /// One sentence for the answer's body.
    pub fn explanation(self) -> &'static str {
        self.table().4
    }

    fn table(self) -> (&'static str, StatusCode, Side, Again, &'static str) {
        use Again::{IfIdempotent, Never, Unsent};
        use Side::{Downstream, Ours, Upstream};
        match self {
            Failure::BadRequest => {
                ("bad_request", StatusCode::BAD_REQUEST, Downstream, Never, "the request is malformed or ambiguous")
            }
            Failure::MethodRefused => (
                "method_refused",
                StatusCode::METHOD_NOT_ALLOWED,
                Downstream,
                Never,
                "CONNECT and TRACE are not passed on",
            ),
            Failure::TargetTooLong => (
                "target_too_long",
                StatusCode::URI_TOO_LONG,
                Downstream,
                Never,
                "the request target is longer than the limit",
            ),
            Failure::HeadTooLarge => (
                "head_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Downstream,
                Never,
                "the request's header fields are more or larger than the limit",
            ),
            Failure::BodyTooLarge => (
                "body_too_large",
                StatusCode::PAYLOAD_TOO_LARGE,
                Downstream,
                Never,
                "the request's body is larger than the limit",
            ),
            Failure::HeadTimeout => (
                "head_timeout",
                StatusCode::REQUEST_TIMEOUT,
                Downstream,
                Never,
                "the request's head did not arrive in time",
            ),
            Failure::ConnectionLimit => (
                "connection_limit",
                StatusCode::SERVICE_UNAVAILABLE,
                Ours,
                Never,
                "there are as many connections as the limit allows",
            ),
            Failure::NotReady => (
                "not_ready",
                StatusCode::SERVICE_UNAVAILABLE,
                Ours,
                Never,
                "the proxy does not know the application's endpoints yet",
            ),
            Failure::NoEndpoint => (
                "no_endpoint",
                StatusCode::SERVICE_UNAVAILABLE,
                Upstream,
                Unsent,
                "no endpoint of the application is known",
            ),
            Failure::ConnectRefused => (
                "connect_refused",
                StatusCode::SERVICE_UNAVAILABLE,
                Upstream,
                Unsent,
                "no endpoint of the application could be reached",
            ),
            Failure::ConnectTimeout => (
                "connect_timeout",
                StatusCode::SERVICE_UNAVAILABLE,
                Upstream,
                Unsent,
                "no endpoint of the application accepted a connection in time",
            ),
            Failure::UpstreamClosed => (
                "upstream_closed",
                StatusCode::BAD_GATEWAY,
                Upstream,
                IfIdempotent,
                "the application closed the connection before it answered",
            ),
            Failure::UpstreamInvalid => (
                "upstream_invalid",
                StatusCode::BAD_GATEWAY,
                Upstream,
                Never,
                "the application's answer is not valid HTTP",
            ),
            Failure::FirstByteTimeout => (
                "first_byte_timeout",
                StatusCode::GATEWAY_TIMEOUT,
                Upstream,
                Never,
                "the application did not answer in time",
            ),
            Failure::RequestTimeout => (
                "request_timeout",
                StatusCode::GATEWAY_TIMEOUT,
                Upstream,
                Never,
                "the application did not finish its answer in time",
            ),
            Failure::UpstreamCut => {
                ("upstream_cut", StatusCode::BAD_GATEWAY, Upstream, Never, "the application cut its answer")
            }
            Failure::ClientGone => ("client_gone", StatusCode::BAD_REQUEST, Downstream, Never, "the client went away"),
            Failure::BodyTimeout => (
                "body_timeout",
                StatusCode::REQUEST_TIMEOUT,
                Downstream,
                Never,
                "the request's body did not arrive in time",
            ),
            Failure::IdleTimeout => (
                "idle_timeout",
                StatusCode::GATEWAY_TIMEOUT,
                Upstream,
                Never,
                "the application stopped in the middle of its answer",
            ),
            Failure::Overflow => (
                "overflow",
                StatusCode::SERVICE_UNAVAILABLE,
                Upstream,
                Never,
                "the application has as many requests as its limit allows, try again soon",
            ),
            Failure::UpstreamTls => (
                "upstream_tls",
                StatusCode::BAD_GATEWAY,
                Upstream,
                Unsent,
                "no endpoint of the application could be reached through TLS",
            ),
            Failure::StreamRefused => (
                "stream_refused",
                StatusCode::SERVICE_UNAVAILABLE,
                Upstream,
                Unsent,
                "the application is about to close the connection and did not look at the request",
            ),
            Failure::VersionRefused => (
                "version_refused",
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                Downstream,
                Never,
                "the request's version of HTTP is not spoken here",
            ),
            Failure::CodingRefused => (
                "coding_refused",
                StatusCode::NOT_IMPLEMENTED,
                Downstream,
                Never,
                "the request's body has a transfer coding that is not known",
            ),
            Failure::MaxForwards => {
                ("max_forwards", StatusCode::OK, Ours, Never, "the request was not to be forwarded beyond this proxy")
            }
            Failure::ProxyProtocol => (
                "proxy_protocol",
                StatusCode::BAD_REQUEST,
                Downstream,
                Never,
                "the connection does not begin with a PROXY protocol header from a trusted proxy",
            ),
            Failure::AddressLimit => (
                "address_limit",
                StatusCode::SERVICE_UNAVAILABLE,
                Downstream,
                Never,
                "this client has as many connections as the limit allows",
            ),
            Failure::HandshakeLimit => (
                "handshake_limit",
                StatusCode::SERVICE_UNAVAILABLE,
                Ours,
                Never,
                "there are as many TLS handshakes as the limit allows",
            ),
            Failure::NoDescriptors => (
                "no_descriptors",
                StatusCode::SERVICE_UNAVAILABLE,
                Ours,
                Never,
                "the proxy has no file descriptor left for another connection",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_numbers_that_metrics_pack() {
        for (i, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, i);
        }
    }
}
