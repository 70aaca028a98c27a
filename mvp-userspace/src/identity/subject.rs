//! What a certificate's subject says, as Go's crypto/x509 reads it and kube-apiserver uses it
//! (`apiserver/pkg/authentication/request/x509/x509.go:CommonNameUserConversion`).

use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::x509::X509Name;

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
/// 1.3.6.1.4.1.57683.2, under the CNCF's number: the user's UID; read by default since Kubernetes 1.34
/// (`apimachinery/pkg/apis/asn1/oid.go`).
const USER_UID: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xc2, 0x53, 2];

/// The key of the extra value that identifies the credential (`apiserver/pkg/authentication/user/user.go`).
pub(super) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Subject {
    /// The last one, if there are several; empty if there is none.
    pub common_name: String,
    pub organizations: Vec<String>,
    pub uids: Vec<String>,
}

/// `None` if an attribute of interest is not a string that Go accepts; Go then refuses the whole certificate.
pub(super) fn read(name: &X509Name<'_>) -> Option<Subject> {
    let mut subject = Subject::default();
    for attribute in name.iter_attributes() {
        let value = || string(attribute.attr_value());
        match attribute.attr_type().as_bytes() {
            COMMON_NAME => subject.common_name = value()?,
            ORGANIZATION => subject.organizations.push(value()?),
            USER_UID => subject.uids.push(value()?),
            _ => {}
        }
    }
    Some(subject)
}

/// `X509SHA256=<hex>` of the whole certificate.
pub(super) fn credential_id(der: &[u8]) -> String {
    use std::fmt::Write;
    let mut id = String::from("X509SHA256=");
    for byte in Sha256::digest(der) {
        // Writing to a String cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// The string types that Go reads in a name (`crypto/x509/parser.go:parseASN1String`). Teletex strings are taken only while all
/// their readings agree, that is in ASCII.
fn string(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    let text = match value.header.tag() {
        Tag::Utf8String => std::str::from_utf8(bytes).ok()?,
        Tag::PrintableString if bytes.iter().all(|&b| is_printable(b)) => {
            std::str::from_utf8(bytes).ok()?
        }
        Tag::Ia5String | Tag::T61String if bytes.is_ascii() => std::str::from_utf8(bytes).ok()?,
        Tag::NumericString if bytes.iter().all(|&b| b.is_ascii_digit() || b == b' ') => {
            std::str::from_utf8(bytes).ok()?
        }
        Tag::BmpString => return bmp_string(bytes),
        _ => return None,
    };
    Some(text.to_owned())
}

/// X.680's set, with `*` and `&`, which are in use and which Go therefore allows.
fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(&byte)
}

fn bmp_string(bytes: &[u8]) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let mut units: Vec<u16> = units.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    // PKCS#12 writers leave a terminator.
    if units.last() == Some(&0) {
        units.pop();
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::identity::testing::name_der;

    fn subject(attributes: &[(&[u8], u8, &[u8])]) -> Option<Subject> {
        let der = name_der(attributes);
        let (_, name) = X509Name::from_der(&der).unwrap();
        read(&name)
    }

    #[test]
    fn common_name_is_the_last_and_organizations_keep_their_order() {
        let got = subject(&[
            (COMMON_NAME, 0x0c, b"first"),
            (ORGANIZATION, 0x0c, b"devs"),
            (ORGANIZATION, 0x13, b"ops"),
            (&[0x55, 4, 11], 0x0c, b"a unit, not a group"),
            (ORGANIZATION, 0x0c, b""),
            (COMMON_NAME, 0x0c, "zo\u{eb}".as_bytes()),
        ])
        .unwrap();
        assert_eq!(got.common_name, "zo\u{eb}");
        assert_eq!(got.organizations, ["devs", "ops", ""]);
        assert!(got.uids.is_empty());
    }

    #[test]
    fn uid_attributes_are_all_seen() {
        let got = subject(&[
            (COMMON_NAME, 0x0c, b"a"),
            (USER_UID, 0x0c, b"1"),
            (USER_UID, 0x0c, b"2"),
        ])
        .unwrap();
        assert_eq!(got.uids, ["1", "2"]);
        // RFC 4519's uid is another attribute.
        let other: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1];
        assert!(subject(&[(other, 0x0c, b"x")]).unwrap().uids.is_empty());
    }

    #[test]
    fn string_types_as_go_has_them() {
        let cn = |tag, bytes: &[u8]| subject(&[(COMMON_NAME, tag, bytes)]).map(|s| s.common_name);
        assert_eq!(cn(0x0c, b"\xff"), None, "UTF-8 that is none");
        assert_eq!(cn(0x13, b"system:node:a"), Some("system:node:a".to_owned()));
        assert_eq!(cn(0x13, b"a@b"), None, "not in the printable set");
        assert_eq!(cn(0x16, b"a@b"), Some("a@b".to_owned()));
        assert_eq!(cn(0x16, b"\xe9"), None);
        assert_eq!(cn(0x14, b"abc"), Some("abc".to_owned()));
        assert_eq!(
            cn(0x14, b"\xe9"),
            None,
            "teletex beyond ASCII has two readings"
        );
        assert_eq!(cn(0x12, b"12 3"), Some("12 3".to_owned()));
        assert_eq!(cn(0x12, b"1a"), None);
        assert_eq!(cn(0x1e, &[0, b'h', 0, b'i']), Some("hi".to_owned()));
        assert_eq!(cn(0x1e, &[0, b'h', 0]), None);
        assert_eq!(cn(0x02, &[1]), None, "an integer is no name");
    }

    #[test]
    fn credential_id_form() {
        assert_eq!(
            credential_id(b"abc"),
            "X509SHA256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
