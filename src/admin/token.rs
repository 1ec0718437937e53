//! The token that may be asked for: whoever knows it may look. It is in a file, and read again when that changes, so that
//! it can be replaced while the proxy runs.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

/// Instead of `Authorization`, which the API server's proxy to pods does not pass on.
pub const HEADER: HeaderName = HeaderName::from_static("splitway-admin-token");

/// Less can be guessed.
const LEAST_BYTES: usize = 16;
const MOST_BYTES: usize = 1024;

/// How long what was read is good for.
const FRESH: Duration = Duration::from_secs(1);

/// What a file says that is named to the listener, or to a command that asks it.
#[derive(Clone)]
pub struct Token {
    path: PathBuf,
    held: Arc<Mutex<Held>>,
}

struct Held {
    text: String,
    read: Instant,
    /// The last error is told once, not with each look.
    error: Option<String>,
}

impl Token {
    pub fn read(path: &Path) -> Result<Self, String> {
        let held = Held { text: read(path)?, read: Instant::now(), error: None };
        Ok(Self { path: path.to_owned(), held: Arc::new(Mutex::new(held)) })
    }

    /// Whether a request's `Authorization` is `Bearer` and the token, or whether [`HEADER`] is. How long that takes says
    /// nothing about how much of it was right.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(&AUTHORIZATION).and_then(|text| text.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, said)| said);
        let said = text(&HEADER).or(bearer);
        said.is_some_and(|said| Sha256::digest(said.trim()) == Sha256::digest(self.text()))
    }

    /// For those who ask through something that keeps `Authorization` for itself: beside [`Token::bearer`].
    pub fn plain(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.text()).expect("a token is visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// For those who ask with it.
    pub fn bearer(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.text())).expect("a token is visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// A file that cannot be read any more changes nothing: what it said last goes on.
    fn text(&self) -> String {
        let mut held = self.held.lock().expect("no holder of this lock panics");
        if held.read.elapsed() >= FRESH {
            held.read = Instant::now();
            match read(&self.path) {
                Ok(text) => (held.text, held.error) = (text, None),
                Err(error) => {
                    if held.error.as_ref() != Some(&error) {
                        tracing::warn!("the admin listener's token stays as it was: {error}");
                    }
                    held.error = Some(error);
                }
            }
        }
        held.text.clone()
    }
}

fn read(path: &Path) -> Result<String, String> {
    let cannot = |why: String| format!("{}: {why}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES as u64 + 3).read_to_string(&mut text))
        .map_err(|error| cannot(format!("cannot be read: {error}")))?;
    let token = text.trim();
    match token.len() {
        _ if !token.bytes().all(|byte| byte.is_ascii_graphic()) => Err(cannot(
            "expected one token of letters, digits and signs, found blanks or other characters in it".into(),
        )),
        length if length < LEAST_BYTES => Err(cannot(format!(
            "expected a token of at least {LEAST_BYTES} characters, found {length}; for example: openssl rand -hex 32"
        ))),
        length if length > MOST_BYTES => Err(cannot(format!("expected a token of at most {MOST_BYTES} characters"))),
        _ => Ok(token.to_owned()),
    }
}

/// The file decides which token it is.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    fn with(name: HeaderName, value: HeaderValue) -> HeaderMap {
        HeaderMap::from_iter([(name, value)])
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, format!("{GOOD}\n")).unwrap();
        let token = Token::read(&path).unwrap();
        for (said, admitted) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer  0123456789abcdef", true),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic 0123456789abcdef", false),
            ("0123456789abcdef", false),
        ] {
            assert_eq!(token.admits(&with(AUTHORIZATION, header(said))), admitted, "{said}");
        }
        assert!(!token.admits(&HeaderMap::new()));
        assert!(token.admits(&with(AUTHORIZATION, token.bearer())) && token.admits(&with(HEADER, token.plain())));
        assert!(!token.admits(&with(HEADER, header("0123456789abcdeg"))));
        assert!(!format!("{token:?}").contains(GOOD) && !format!("{:?}", token.bearer()).contains(GOOD));
    }

    #[test]
    fn a_file_that_changes_changes_the_token_and_one_that_is_broken_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(GOOD);
        let token = Token::read(&path).unwrap();
        let long_ago = || token.held.lock().unwrap().read -= FRESH;
        write("another-token-of-ours");
        assert_eq!(token.text(), GOOD, "not looked at more often than that");
        long_ago();
        assert_eq!(token.text(), "another-token-of-ours");
        for broken in ["", "short"] {
            write(broken);
            long_ago();
            assert_eq!(token.text(), "another-token-of-ours");
        }
        std::fs::remove_file(&path).unwrap();
        long_ago();
        assert_eq!(token.text(), "another-token-of-ours");
    }

    #[test]
    fn what_is_no_token_is_an_error_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, expected) in [
            ("", "at least 16 characters, found 0"),
            ("too-short\n", "at least 16 characters, found 9"),
            ("two words that are long enough", "found blanks"),
            ("schl\u{fc}ssel-schl\u{fc}ssel", "other characters"),
            (&"x".repeat(2000), "at most 1024"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Token::read(&path).expect_err(text);
            assert!(error.contains(expected) && error.contains("token: "), "{error}");
        }
        assert!(Token::read(Path::new("/nobody/has/this")).is_err_and(|error| error.contains("cannot be read")));
    }
}
