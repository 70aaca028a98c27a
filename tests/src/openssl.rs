//! Certificates made and judged by OpenSSL, an authority besides the libraries that agents and simulated servers use.

use std::process::Command;

use anyhow::{Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

use crate::sim::pki::{Identity, Pki};

/// Whether `openssl verify` takes the chain, its own certificate first, for a TLS client's under these roots.
///
/// # Errors
/// OpenSSL cannot be run.
pub fn verify(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> Result<bool> {
    let folder = TempDir::with_prefix("mvp-openssl-")?;
    let Some((leaf, rest)) = chain.split_first() else {
        return Ok(false);
    };
    let write = |name: &str, ders: &[CertificateDer<'_>]| -> Result<_> {
        let path = folder.path().join(name);
        std::fs::write(&path, ders.iter().map(|der| pem(der)).collect::<String>())?;
        Ok(path)
    };
    let mut command = Command::new("openssl");
    command
        .args([
            "verify",
            "-purpose",
            "sslclient",
            "-no-CApath",
            "-no-CAstore",
            "-CAfile",
        ])
        .arg(write("roots.pem", roots)?);
    if !rest.is_empty() {
        command.arg("-untrusted").arg(write("rest.pem", rest)?);
    }
    command.arg(write("leaf.pem", std::slice::from_ref(leaf))?);
    Ok(command.output()?.status.success())
}

/// A client certificate of the cluster CA as `openssl x509 -req` makes it: of version 1, unless `extensions` (lines of an
/// extension file) are given.
///
/// # Errors
/// OpenSSL cannot be run, or refuses.
pub fn issue(
    pki: &Pki,
    common_name: &str,
    organization: &str,
    extensions: Option<&str>,
) -> Result<Identity> {
    let folder = TempDir::with_prefix("mvp-openssl-")?;
    let path = |name: &str| folder.path().join(name);
    let subject = format!("/O={organization}/CN={common_name}");
    run(Command::new("openssl")
        .args(["req", "-new", "-nodes", "-newkey", "ec"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-subj",
            &subject,
        ])
        .arg("-keyout")
        .arg(path("key.pem"))
        .arg("-out")
        .arg(path("request.pem")))?;
    let mut sign = Command::new("openssl");
    sign.args(["x509", "-req", "-days", "1", "-set_serial", "4711", "-in"])
        .arg(path("request.pem"))
        .arg("-CA")
        .arg(pki.path("ca.crt"))
        .arg("-CAkey")
        .arg(pki.path("ca.key"))
        .arg("-out")
        .arg(path("certificate.pem"));
    if let Some(extensions) = extensions {
        std::fs::write(path("extensions"), extensions)?;
        sign.arg("-extfile").arg(path("extensions"));
    }
    run(&mut sign)?;
    Ok(Identity {
        cert_pem: std::fs::read_to_string(path("certificate.pem"))?,
        key_pem: std::fs::read_to_string(path("key.pem"))?,
    })
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    Ok(())
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem + "\n-----END CERTIFICATE-----\n"
}
