//! Subjects with several groups. rcgen keeps one value an attribute type, Kubernetes puts each group in an O of its own.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SigningKey};

/// Subject attribute in which kube-apiserver looks for the user's uid (apiserver `authentication/request/x509`).
const UID: &[u64] = &[1, 3, 6, 1, 4, 1, 57683, 2];
/// The DER of organizationName, 2.5.4.10.
const ORGANIZATION: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 10];
/// Attribute types 2.5.4.100 and up stand for the second and further groups until [`sign`] renames them.
const PLACEHOLDER: u8 = 100;
const MAX_GROUPS: usize = 27;

/// At most 28 groups.
pub(super) fn name(common_name: &str, groups: &[String], uid: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (index, group) in groups.iter().enumerate() {
        let attribute = match index {
            0 => DnType::OrganizationName,
            _ => DnType::CustomDnType(vec![2, 5, 4, u64::from(PLACEHOLDER) + index as u64 - 1]),
        };
        name.push(attribute, group.as_str());
    }
    name.push(DnType::CommonName, common_name);
    if let Some(uid) = uid {
        name.push(DnType::CustomDnType(UID.to_vec()), uid);
    }
    name
}

/// Signs, and signs again when placeholders had to be renamed. Returns PEM.
pub(super) fn sign(
    params: &CertificateParams,
    key: &KeyPair,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String> {
    let cert = params.signed_by(key, issuer)?;
    let mut cursor = body(cert.der()).context("certificate")?;
    let tbs = take(&mut cursor).context("to-be-signed part")?;
    let algorithm = take(&mut cursor).context("signature algorithm")?;
    let renamed = rename(tbs);
    if renamed == tbs {
        return Ok(cert.pem());
    }
    let mut bits = vec![0];
    bits.extend(issuer.key().sign(&renamed)?);
    let der = encode(
        0x30,
        &[renamed.as_slice(), algorithm, &encode(0x03, &bits)].concat(),
    );
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let text = STANDARD.encode(der);
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line)?);
        pem.push('\n');
    }
    Ok(pem + "-----END CERTIFICATE-----\n")
}

fn rename(tbs: &[u8]) -> Vec<u8> {
    let mut out = tbs.to_vec();
    for at in 0..out.len().saturating_sub(ORGANIZATION.len()) {
        let window = &out[at..at + ORGANIZATION.len()];
        let last = window[4];
        if window[..4] == ORGANIZATION[..4]
            && (PLACEHOLDER..=PLACEHOLDER + MAX_GROUPS as u8).contains(&last)
        {
            out[at + 4] = ORGANIZATION[4];
        }
    }
    out
}

/// The contents of the DER element at the start of `der`.
fn body(der: &[u8]) -> Option<&[u8]> {
    let (header, length) = header(der)?;
    der.get(header..header + length)
}

/// Cuts one whole DER element off the front.
fn take<'a>(cursor: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (header, length) = header(cursor)?;
    let (element, rest) = cursor.split_at_checked(header + length)?;
    *cursor = rest;
    Some(element)
}

/// Length of the header and of the contents.
fn header(der: &[u8]) -> Option<(usize, usize)> {
    let first = *der.get(1)?;
    if first < 0x80 {
        return Some((2, first.into()));
    }
    let digits = der.get(2..2 + usize::from(first & 0x7f))?;
    Some((
        2 + digits.len(),
        digits
            .iter()
            .fold(0, |sum, digit| (sum << 8) | usize::from(*digit)),
    ))
}

fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = contents.len().to_be_bytes();
    let digits = &length[length
        .iter()
        .position(|b| *b != 0)
        .unwrap_or(length.len() - 1)..];
    if contents.len() >= 0x80 {
        out.push(0x80 | digits.len() as u8);
    }
    out.extend(digits);
    out.extend(contents);
    out
}
