//! Files, and what is wrong with them in words: what was expected, what was found, the remedy.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

/// A bundle of every public authority is a quarter of it.
const MOST_BYTES: u64 = 1 << 20;

/// A file's bytes, or why there are none. A function, so that whoever watches files knows which were read, and what of.
pub type Read<'a> = &'a mut dyn FnMut(&Path) -> Result<Vec<u8>, String>;

/// Why files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which of them is to blame.
    pub file: PathBuf,
    /// What was expected and what was found there.
    pub message: String,
    pub help: Option<String>,
}

impl Wrong {
    pub(super) fn new(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), message: message.into(), help: None }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// What a file held when it was read. Two are equal when the files said the same; afterwards the bytes may be taken, so
/// that no key is kept longer than it is needed.
#[derive(Clone)]
pub struct Contents {
    bytes: Result<Vec<u8>, String>,
    digest: [u8; 32],
}

impl Contents {
    pub fn of(bytes: Result<Vec<u8>, String>) -> Self {
        let digest = match &bytes {
            Ok(bytes) => Sha256::new().chain_update([1]).chain_update(bytes),
            Err(error) => Sha256::new().chain_update([0]).chain_update(error),
        };
        Self { digest: digest.finalize().into(), bytes }
    }

    pub fn read(path: &Path) -> Self {
        Self::of(read(path))
    }

    /// Once.
    pub fn take(&mut self) -> Result<Vec<u8>, String> {
        std::mem::replace(&mut self.bytes, Err("its contents were used already".to_owned()))
    }
}

impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contents")
    }
}

/// The usual way to read a file: one of bearable size, and nothing that could keep us waiting.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    if !path.metadata().map_err(cannot)?.is_file() {
        return Err("expected a file, found something else of that name".to_owned());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("expected at most {MOST_BYTES} bytes, found more"));
    }
    Ok(bytes)
}

/// At least one, in the order of the file.
pub(super) fn certificates(file: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            let wrong = Wrong::new(file, format!("expected a certificate, found {}", what(bytes)));
            Err(wrong.help("a certificate is between `-----BEGIN CERTIFICATE-----` and `-----END CERTIFICATE-----`"))
        }
        Err(error) => Err(broken(file, &error)),
    }
}

/// The one private key.
pub(super) fn key(file: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, Wrong> {
    if is_encrypted(bytes) {
        let wrong =
            Wrong::new(file, "expected a private key, found an encrypted one, for which there is no passphrase");
        return Err(wrong.help(format!(
            "decrypt it once: openssl pkey -in {} -out plain.key, and let nobody else read that file",
            file.display()
        )));
    }
    let found: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(bytes).collect();
    let mut found = found.map_err(|error| broken(file, &error))?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Wrong::new(file, format!("expected a private key, found {}", what(bytes)))
            .help("`BEGIN PRIVATE KEY`, `BEGIN RSA PRIVATE KEY` and `BEGIN EC PRIVATE KEY` are read")),
        many => Err(Wrong::new(file, format!("expected one private key, found {many}"))),
    }
}

fn broken(file: &Path, error: &rustls::pki_types::pem::Error) -> Wrong {
    Wrong::new(file, format!("expected PEM, found some that is broken or cut off: {error}"))
}

/// What is there instead, by the lines that PEM begins with.
fn what(bytes: &[u8]) -> String {
    let mut labels: Vec<String> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let Some(label) = line.trim().strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let label = if label.len() > 40 { "something of a long name".to_owned() } else { label.to_lowercase() };
        if !labels.contains(&label) && labels.len() < 5 {
            labels.push(label);
        }
    }
    match (labels.is_empty(), bytes) {
        (false, _) => labels.iter().map(|label| format!("`{}`", label.escape_debug())).collect::<Vec<_>>().join(", "),
        (true, []) => "an empty file".to_owned(),
        // The tag of the sequence that every certificate and key is.
        (true, [0x30, 0x80..=0xff, ..]) => {
            "what looks like DER: openssl x509 -inform der (or pkey) makes PEM of it".to_owned()
        }
        (true, _) => "no PEM at all".to_owned(),
    }
}

fn is_encrypted(bytes: &[u8]) -> bool {
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}
