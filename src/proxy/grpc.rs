//! gRPC, as far as a proxy has to know it: whether an answer was an error, how long it may take, and how to refuse in words
//! that its clients understand (the "gRPC over HTTP2" protocol, and `google.rpc.Code` for what its statuses are in HTTP).

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Version};

use super::Failure;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The numbers of `grpc-status`: 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u8);

impl Status {
    /// Nothing better is known, also of a status that does not exist.
    pub const UNKNOWN: Self = Self(2);
    const DEADLINE_EXCEEDED: Self = Self(4);
    const UNAVAILABLE: Self = Self(14);

    /// In the trailers, or in the head of an answer that is nothing else.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let number = fields.get(GRPC_STATUS)?.to_str().ok().and_then(|text| text.parse().ok());
        Some(number.filter(|number| *number <= 16).map_or(Self::UNKNOWN, Self))
    }

    pub fn number(self) -> u8 {
        self.0
    }

    /// As HTTP says it. What is the server's fault, and only that, becomes 5xx.
    pub fn as_http(self) -> u16 {
        match self.0 {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        }
    }

    /// What a failure of ours is called.
    pub fn for_failure(failure: Failure) -> Self {
        match failure {
            Failure::RequestTimeout | Failure::FirstByteTimeout | Failure::IdleTimeout => Self::DEADLINE_EXCEEDED,
            _ => Self::UNAVAILABLE,
        }
    }
}

pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// How long the client waits: up to eight digits and a unit.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// How a call ends that has failed on our way.
pub fn trailers(failure: Failure) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(2);
    fields.insert(GRPC_STATUS, HeaderValue::from(u16::from(Status::for_failure(failure).0)));
    // Plain ASCII without `%`, so that nothing has to be escaped.
    let message = format!("splitway: {}: {}", failure.as_str(), failure.explanation());
    fields.insert(GRPC_MESSAGE, HeaderValue::try_from(message).expect("our own words are visible ASCII"));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_faults_are_errors() {
        let errors: Vec<u8> = (0..=16).filter(|number| Status(*number).as_http() >= 500).collect();
        assert_eq!(errors, [2, 4, 12, 13, 14, 15]);
    }

    #[test]
    fn timeouts_are_eight_digits_and_a_unit() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(text).unwrap());
            timeout(&headers)
        };
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("20m"), Some(Duration::from_millis(20)));
        assert_eq!(read("5n"), Some(Duration::from_nanos(5)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "1é"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn statuses_that_do_not_exist_are_unknown() {
        for (text, status) in [("0", 0), ("14", 14), ("17", 2), ("x", 2), ("-1", 2)] {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_STATUS, HeaderValue::from_static(text));
            assert_eq!(Status::of(&headers), Some(Status(status)));
        }
        assert_eq!(Status::of(&HeaderMap::new()), None);
    }

    #[test]
    fn every_failure_can_be_told() {
        for failure in Failure::ALL {
            assert!(!failure.explanation().contains('%'));
            assert_eq!(trailers(failure).len(), 2);
        }
    }
}
