//! Material that comes from files: parsed whole or not at all, and replaced only by something that parses.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use super::provider;
use super::sni::certificate_names;

/// More than any bundle in use; guards against a key that names a device or a log.
const MAX_FILE: u64 = 8 << 20;

/// What happened to one file since the start, for the metrics. A pair is loaded as one: both its files succeed together.
#[derive(Debug)]
pub struct FileStats {
    /// The configuration key that names the file.
    pub key: String,
    /// The file, as the agent opens it.
    pub path: PathBuf,
    /// Reloads that took effect.
    pub successes: AtomicU64,
    /// Different contents that were refused, this file being to blame.
    pub failures: AtomicU64,
    not_after: AtomicI64,
    last_error: Mutex<Option<String>>,
}

impl FileStats {
    /// The statistics of a file that `key` names.
    pub(crate) fn new(key: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            key: key.into(),
            path: path.into(),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            not_after: AtomicI64::new(i64::MIN),
            last_error: Mutex::default(),
        }
    }

    /// The newest content is in use.
    pub(crate) fn succeeded(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
        *self.lock_error() = None;
    }

    /// The newest content cannot be used.
    pub(crate) fn failed(&self, error: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.lock_error() = Some(error);
    }

    /// End of validity, Unix seconds: of the first certificate of a pair, or the last to expire of a CA bundle (a bundle is a
    /// union, and an old CA is left in it on purpose). `None` for a key file.
    pub fn not_after(&self) -> Option<i64> {
        Some(self.not_after.load(Ordering::Relaxed)).filter(|&t| t != i64::MIN)
    }

    /// Why the newest content is not in use; `None`: it is.
    pub fn last_error(&self) -> Option<String> {
        self.lock_error().clone()
    }

    fn lock_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file and the configuration key that names it.
#[derive(Clone, Debug)]
pub(crate) struct FileSpec {
    pub key: String,
    pub path: PathBuf,
}

impl FileSpec {
    /// `key` is the configuration key that names the file, for messages and metrics.
    pub(crate) fn new(key: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            key: key.into(),
            path: path.into(),
        }
    }
}

/// The outcome of looking at the files of one piece of material again.
#[derive(Debug)]
pub struct ReloadOutcome {
    /// The configuration key of the first file.
    pub key: String,
    /// Whether the new contents took effect. If they did not, the material from before stays in use.
    pub result: Result<(), TlsError>,
}

/// What [`Source::refresh`] found.
#[derive(Debug)]
pub(crate) enum Refreshed {
    Unchanged,
    Changed,
    Failed(TlsError),
}

/// Material parsed from `N` files.
pub(crate) trait FromFiles<const N: usize>: Sized {
    /// `contents` is in the order of `files`.
    fn parse(files: &[FileSpec; N], contents: &[Vec<u8>; N]) -> Result<Self, TlsError>;
    /// Validity in Unix seconds, both ends included.
    fn validity(&self) -> (i64, i64);
}

/// The last good material of a set of files.
#[derive(Debug)]
pub(crate) struct Source<T, const N: usize> {
    files: [FileSpec; N],
    stats: [Arc<FileStats>; N],
    value: Arc<T>,
    /// The digest of the contents last looked at, good or bad, so that one bad file is reported once.
    digest: [u8; 32],
}

impl<T: FromFiles<N>, const N: usize> Source<T, N> {
    /// Reads and parses the files.
    ///
    /// # Errors
    /// The first file that cannot be used. There is no material then: the agent does not start.
    pub(crate) fn load(files: [FileSpec; N]) -> Result<Self, TlsError> {
        let contents = read_all(&files);
        let digest = digest(&contents);
        let value = parse::<T, N>(&files, contents)?;
        let stats = files
            .each_ref()
            .map(|file| Arc::new(FileStats::new(file.key.clone(), file.path.clone())));
        let source = Self {
            files,
            stats,
            value: Arc::new(value),
            digest,
        };
        source.publish();
        Ok(source)
    }

    /// Reads the files again; on any error the old value stays.
    pub(crate) fn refresh(&mut self) -> Refreshed {
        let contents = read_all(&self.files);
        let digest = digest(&contents);
        if digest == self.digest {
            return Refreshed::Unchanged;
        }
        self.digest = digest;
        match parse::<T, N>(&self.files, contents) {
            Ok(value) => {
                self.value = Arc::new(value);
                self.publish();
                for stats in &self.stats {
                    stats.succeeded();
                }
                Refreshed::Changed
            }
            Err(error) => {
                self.blame(&error);
                Refreshed::Failed(error)
            }
        }
    }

    /// Counts a failure against the file that `error` names.
    pub(crate) fn blame(&self, error: &TlsError) {
        let blamed = self
            .stats
            .iter()
            .find(|s| s.key == error.key())
            .or(self.stats.first());
        if let Some(stats) = blamed {
            stats.failed(error.to_string());
        }
    }

    /// The last good material.
    pub(crate) fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// The validity of the certificate; see [`FileStats::not_after`].
    pub(crate) fn validity(&self) -> (i64, i64) {
        self.value.validity()
    }

    /// What happened to each file, in the order of the files.
    pub(crate) fn stats(&self) -> &[Arc<FileStats>] {
        &self.stats
    }

    /// The first file.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.files
            .first()
            .map_or(std::path::Path::new(""), |f| f.path.as_path())
    }

    /// The configuration key of the certificate file.
    pub(crate) fn key(&self) -> &str {
        self.files.first().map_or("", |f| f.key.as_str())
    }

    fn publish(&self) {
        if let Some(stats) = self.stats.first() {
            stats
                .not_after
                .store(self.value.validity().1, Ordering::Relaxed);
        }
    }
}

/// A certificate chain and its private key.
#[derive(Debug)]
pub(crate) struct Pair {
    pub certified: Arc<CertifiedKey>,
    /// Names of the certificate that a client may ask for.
    pub names: Vec<String>,
    validity: (i64, i64),
}

impl FromFiles<2> for Pair {
    fn parse(
        [cert_file, key_file]: &[FileSpec; 2],
        [cert_pem, key_pem]: &[Vec<u8>; 2],
    ) -> Result<Self, TlsError> {
        let chain = certificates(cert_file, cert_pem)?;
        let mut first = None;
        for (index, der) in chain.iter().enumerate() {
            let parsed =
                parse_certificate(der).map_err(|reason| malformed(cert_file, index, reason))?;
            if index == 0 {
                first = Some((validity(&parsed), certificate_names(&parsed)));
            }
        }
        let Some((validity, names)) = first else {
            return Err(no_certificate(cert_file));
        };
        let key = private_key(key_file, key_pem)?;
        let certified =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                    key: key_file.key.clone(),
                    path: key_file.path.clone(),
                },
                rustls::Error::InvalidCertificate(error) => {
                    malformed(cert_file, 0, error.to_string())
                }
                error => TlsError::Key {
                    key: key_file.key.clone(),
                    path: key_file.path.clone(),
                    reason: error.to_string(),
                },
            })?;
        Ok(Self {
            certified: Arc::new(certified),
            names,
            validity,
        })
    }

    fn validity(&self) -> (i64, i64) {
        self.validity
    }
}

/// A file of CA certificates: the union of all of them is trusted.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub certificates: Vec<CertificateDer<'static>>,
    pub anchors: Vec<TrustAnchor<'static>>,
    validity: (i64, i64),
}

impl FromFiles<1> for Bundle {
    fn parse([file]: &[FileSpec; 1], [pem]: &[Vec<u8>; 1]) -> Result<Self, TlsError> {
        let certificates = certificates(file, pem)?;
        let mut anchors = Vec::with_capacity(certificates.len());
        let mut last: Option<(i64, i64)> = None;
        for (index, der) in certificates.iter().enumerate() {
            let parsed = parse_certificate(der).map_err(|reason| malformed(file, index, reason))?;
            let anchor = webpki::anchor_from_trusted_cert(der)
                .map_err(|error| malformed(file, index, error.to_string()))?;
            anchors.push(anchor.to_owned());
            let this = validity(&parsed);
            if last.is_none_or(|(_, not_after)| this.1 > not_after) {
                last = Some(this);
            }
        }
        let Some(validity) = last else {
            return Err(no_certificate(file));
        };
        Ok(Self {
            certificates,
            anchors,
            validity,
        })
    }

    fn validity(&self) -> (i64, i64) {
        self.validity
    }
}

/// A certificate with nothing after it.
pub(crate) fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("bytes after the end of the certificate".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Validity in Unix seconds, both ends included.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (i64, i64) {
    let validity = certificate.validity();
    (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    )
}

fn parse<T: FromFiles<N>, const N: usize>(
    files: &[FileSpec; N],
    contents: [Result<Vec<u8>, TlsError>; N],
) -> Result<T, TlsError> {
    let mut read = [const { Vec::new() }; N];
    for (slot, content) in read.iter_mut().zip(contents) {
        *slot = content?;
    }
    T::parse(files, &read)
}

fn read_all<const N: usize>(files: &[FileSpec; N]) -> [Result<Vec<u8>, TlsError>; N] {
    files.each_ref().map(read)
}

fn read(file: &FileSpec) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        key: file.key.clone(),
        path: file.path.clone(),
        source,
    };
    let mut content = Vec::new();
    File::open(&file.path)
        .map_err(failed)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > MAX_FILE {
        return Err(TlsError::TooLarge {
            key: file.key.clone(),
            path: file.path.clone(),
            limit: MAX_FILE,
        });
    }
    Ok(content)
}

fn digest(contents: &[Result<Vec<u8>, TlsError>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for content in contents {
        match content {
            Ok(bytes) => {
                hash.update([1]);
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
            Err(error) => {
                hash.update([0]);
                hash.update(error.to_string());
            }
        }
    }
    hash.finalize().into()
}

/// All certificates of a PEM file. Other sections and text between sections are skipped, as kube-apiserver does
/// (`client-go/util/cert/pem.go`).
fn certificates(file: &FileSpec, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad_pem(file, &error))?;
    if found.is_empty() {
        Err(no_certificate(file))
    } else {
        Ok(found)
    }
}

fn private_key(file: &FileSpec, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            let encrypted =
                String::from_utf8_lossy(pem).contains("-----BEGIN ENCRYPTED PRIVATE KEY-----");
            let (key, path) = (file.key.clone(), file.path.clone());
            Err(if encrypted {
                TlsError::EncryptedKey { key, path }
            } else {
                TlsError::NoKey { key, path }
            })
        }
        Err(error) => Err(bad_pem(file, &error)),
    }
}

fn bad_pem(file: &FileSpec, error: &rustls::pki_types::pem::Error) -> TlsError {
    TlsError::Pem {
        key: file.key.clone(),
        path: file.path.clone(),
        reason: error.to_string(),
    }
}

fn no_certificate(file: &FileSpec) -> TlsError {
    TlsError::NoCertificate {
        key: file.key.clone(),
        path: file.path.clone(),
    }
}

fn malformed(file: &FileSpec, index: usize, reason: String) -> TlsError {
    TlsError::Certificate {
        key: file.key.clone(),
        path: file.path.clone(),
        number: index + 1,
        reason,
    }
}
