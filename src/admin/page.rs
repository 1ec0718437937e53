//! The dashboard's files, as they are in `src/admin/page/`: written by hand, and served as they are or compressed. Nothing
//! builds them, and the page asks nobody but this listener.
//!
//! `uplot.js` and `uplot.css` are uPlot 1.6.32 (`uPlot.iife.min.js`, `uPlot.min.css`), unchanged; its licence is beside them.

use std::io::Write;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue,
    IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use hyper::body::Bytes;
use sha2::{Digest, Sha256};

use super::{Answer, whole};

/// One file, with the path that it is served at.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const ASSETS: [Asset; 6] = [
    Asset { path: "/", content_type: "text/html; charset=utf-8", bytes: include_bytes!("page/index.html") },
    Asset { path: "/page.css", content_type: "text/css; charset=utf-8", bytes: include_bytes!("page/page.css") },
    Asset { path: "/page.js", content_type: "text/javascript; charset=utf-8", bytes: include_bytes!("page/page.js") },
    Asset { path: "/uplot.css", content_type: "text/css; charset=utf-8", bytes: include_bytes!("page/uplot.css") },
    Asset { path: "/uplot.js", content_type: "text/javascript; charset=utf-8", bytes: include_bytes!("page/uplot.js") },
    Asset { path: "/icon.svg", content_type: "image/svg+xml", bytes: include_bytes!("page/icon.svg") },
];

/// Scripts, styles, pictures and streams of this listener alone; no inline code, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// The files, and what is made of them when somebody asks for it first.
#[derive(Default)]
pub(super) struct Page {
    made: [OnceLock<Made>; ASSETS.len()],
}

struct Made {
    etag: HeaderValue,
    gzip: Bytes,
}

impl Made {
    fn of(bytes: &[u8]) -> Self {
        let hash: String = Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory can be written to");
        Self {
            etag: HeaderValue::from_str(&format!("W/\"{hash}\"")).expect("digits and quotes"),
            gzip: encoder.finish().expect("memory can be written to").into(),
        }
    }
}

impl Page {
    /// `None`: there is no such file, or its place has another face that is wanted more.
    pub(super) fn answer(&self, path: &str, asked: &HeaderMap) -> Option<Answer> {
        let number = ASSETS.iter().position(|asset| asset.path == path)?;
        let asset = &ASSETS[number];
        if path == "/" && !says(asked, &ACCEPT, "text/html") {
            return None;
        }
        let made = self.made[number].get_or_init(|| Made::of(asset.bytes));
        let known = asked.get_all(IF_NONE_MATCH).iter().any(|value| {
            let tags = value.to_str().unwrap_or_default().split(',');
            tags.map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == weak(&made.etag))
        });
        let compressed = says(asked, &ACCEPT_ENCODING, "gzip");
        let mut answer = Response::new(whole(match (known, compressed) {
            (true, _) => Bytes::new(),
            (false, true) => made.gzip.clone(),
            (false, false) => Bytes::from_static(asset.bytes),
        }));
        if known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        if compressed && !known {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers.insert(ETAG, made.etag.clone());
        // It may be kept, and is asked about each time: another version of the proxy has another page.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        Some(answer)
    }

    pub(super) fn has(path: &str) -> bool {
        ASSETS.iter().any(|asset| asset.path == path)
    }
}

/// The comparison of RFC 9110 section 13.1.2 is the weak one.
fn weak(tag: &HeaderValue) -> &str {
    tag.to_str().unwrap_or_default().trim_start_matches("W/")
}

/// Whether a list names this, and not with a weight of 0.
fn says(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |item| {
            let (named, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight =
                parameters.split(';').find_map(|one| one.trim().strip_prefix("q=")?.trim().parse::<f64>().ok());
            named.trim().eq_ignore_ascii_case(wanted) && weight != Some(0.0)
        },
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;

    use super::*;

    fn asked(headers: &[(HeaderName, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    async fn body(answer: Answer) -> Bytes {
        answer.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn the_whole_page_is_small_and_what_is_compressed_is_the_same() {
        let page = Page::default();
        let mut wire = 0;
        for asset in &ASSETS {
            let html = (ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8");
            let plain = body(page.answer(asset.path, &asked(std::slice::from_ref(&html))).unwrap()).await;
            assert_eq!(plain, asset.bytes, "{}", asset.path);
            let answer = page.answer(asset.path, &asked(&[html, (ACCEPT_ENCODING, "br, gzip;q=0.5")])).unwrap();
            assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip", "{}", asset.path);
            let compressed = body(answer).await;
            wire += compressed.len();
            let mut unpacked = Vec::new();
            GzDecoder::new(&compressed[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, asset.bytes, "{}", asset.path);
        }
        // With the first event, which is bounded as well, it stays below 120 KB.
        assert!(wire < 60_000, "{wire} bytes");
    }

    #[tokio::test]
    async fn what_a_browser_has_already_is_not_sent_again() {
        let page = Page::default();
        let first = page.answer("/page.js", &HeaderMap::new()).unwrap();
        let etag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for (known, status) in [(etag.as_str(), 304), ("\"x\", *", 304), ("W/\"other\"", 200), ("", 200)] {
            let answer = page.answer("/page.js", &asked(&[(IF_NONE_MATCH, known)])).unwrap();
            assert_eq!((answer.status().as_u16(), answer.headers()[ETAG].to_str().unwrap()), (status, etag.as_str()));
            assert_eq!(body(answer).await.is_empty(), status == 304);
        }
    }

    #[test]
    fn the_page_is_for_those_who_want_it() {
        let page = Page::default();
        for (accept, wants) in [
            ("text/html,application/xhtml+xml", true),
            ("text/html;q=0", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/json, text/html; q=0.1", true),
        ] {
            assert_eq!(page.answer("/", &asked(&[(ACCEPT, accept)])).is_some(), wants, "{accept}");
        }
        assert!(
            page.answer("/page.css", &HeaderMap::new()).is_some() && page.answer("/page", &HeaderMap::new()).is_none()
        );
    }

    /// The browser enforces the policy; this keeps it strict.
    #[test]
    fn the_page_names_nobody_else_and_has_no_code_in_it() {
        for asset in ASSETS.iter().filter(|asset| !asset.path.contains("uplot")) {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let named = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !named.contains("http:") && !named.contains("https:") && !named.contains("//cdn"),
                "{}",
                asset.path
            );
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{}", asset.path);
        }
        let html = std::str::from_utf8(ASSETS[0].bytes).unwrap();
        for bad in ["<style", "style=", " onclick", "href=\"/", "src=\"/"] {
            assert!(!html.contains(bad), "{bad}");
        }
        assert_eq!(html.matches("<script").count(), html.matches("<script src=").count());
        assert!(!POLICY.contains("unsafe") && POLICY.starts_with("default-src 'none'"));
    }
}
