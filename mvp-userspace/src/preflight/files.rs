//! The files that a configuration names: they must be there and fit together.

use std::path::Path;

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Config, ConfigError, KeyPair, Tree, kubeconfig_problem};
use crate::identity::TrustCell;
use crate::tls::{ClientTls, ServerTls, TlsError};

/// Every file is there, readable, PEM of the right kind, and every key fits its certificate.
///
/// It is checked again whenever a file changes; here it stops a start that could never work.
pub(super) fn check(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    let pair = |cert_key: &str, key_key: &str, pair: &KeyPair| {
        key_pair(pair).map_err(|(in_key, problem)| {
            tree.fail(if in_key { key_key } else { cert_key }, problem)
        })
    };
    let ca = |key: &str, path: &Path| {
        certificates(path)
            .map(drop)
            .map_err(|problem| tree.fail(key, problem))
    };
    pair("serving.certFile", "serving.keyFile", &config.serving)?;
    for (i, sni) in config.sni.iter().enumerate() {
        let (cert, key) = (format!("sni[{i}].certFile"), format!("sni[{i}].keyFile"));
        pair(&cert, &key, &sni.pair)?;
    }
    if let Some(path) = &config.client_ca_file {
        ca("clientCAFile", path)?;
    }
    if let Some(headers) = &config.request_header {
        ca("requestHeader.clientCAFile", &headers.client_ca_file)?;
    }
    ca("upstream.caFile", &config.upstream.ca_file)?;
    if let Some(client) = &config.upstream.client {
        pair("upstream.clientCertFile", "upstream.clientKeyFile", client)?;
        front_proxy(config, &client.cert_file)
            .map_err(|problem| tree.fail("upstream.clientCertFile", problem))?;
    }
    if let Some(path) = &config.peers.kubernetes.kubeconfig {
        kubeconfig_problem(path).map_err(|problem| {
            let problem = format!("{}: {problem}", path.display());
            tree.fail("peers.kubernetes.kubeconfig", problem)
        })?;
    }
    loads(config, tree)
}

/// What the agent loads when it starts is loaded here too: whatever it would refuse then is the configuration's fault.
fn loads(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    let refused = |error: TlsError| {
        let text = error.to_string();
        let problem = text.strip_prefix(&format!("{}: ", error.key()));
        tree.fail(error.key(), problem.unwrap_or(&text))
    };
    ServerTls::load(config).map_err(refused)?;
    ClientTls::load(config).map_err(refused)?;
    TrustCell::open(config).map_err(refused)?;
    Ok(())
}

/// A certificate that servers would take for a user's own, or not for a front proxy's, must not even be tried.
fn front_proxy(config: &Config, file: &Path) -> Result<(), String> {
    // What is wrong with the CAs themselves is reported when they are loaded.
    let Ok(trust) = TrustCell::open(config) else {
        return Ok(());
    };
    let chain = certificates(file)?;
    let fits = trust.load().fits_front_proxy(&chain);
    fits.map_err(|unfit| format!("{}: {unfit}", file.display()))
}

/// The error says whether the key file (true) or the certificate file (false) is at fault.
fn key_pair(pair: &KeyPair) -> Result<(), (bool, String)> {
    let chain = certificates(&pair.cert_file).map_err(|problem| (false, problem))?;
    let shown = pair.key_file.display();
    let in_key = |problem: String| (true, format!("{shown}: {problem}"));
    let key = PrivateKeyDer::from_pem_file(&pair.key_file).map_err(|error| match error {
        pem::Error::NoItemsFound => in_key("holds no private key".into()),
        other => in_key(pem_problem(other)),
    })?;
    let key = aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| in_key(format!("cannot be used: {error}")))?;
    match CertifiedKey::new(chain, key).keys_match() {
        Ok(()) => Ok(()),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(in_key(format!(
                "does not match the certificate in {}",
                pair.cert_file.display()
            )))
        }
        Err(error) => Err((false, format!("{}: {error}", pair.cert_file.display()))),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{shown}: {}", pem_problem(error)))?;
    if found.is_empty() {
        return Err(format!("{shown}: holds no certificate"));
    }
    for (i, certificate) in found.iter().enumerate() {
        x509_parser::parse_x509_certificate(certificate).map_err(|_| {
            let number = i + 1;
            format!("{shown}: holds a broken certificate: number {number} in the file")
        })?;
    }
    Ok(found)
}

fn pem_problem(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        other => format!("is not PEM: {other}"),
    }
}
