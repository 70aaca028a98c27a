//! Trust in certificates made on the spot.

use rustls::pki_types::UnixTime;

use super::certificate::Roots;
use super::trust::{FrontProxyTrust, HeaderNames, Trust};
use crate::config::RequestHeader;
use crate::tls::testing::{Identity, ca, self_signed};

/// A client CA, a front-proxy CA, and trust in both.
pub(super) struct World {
    pub ca: Identity,
    pub proxy_ca: Identity,
    pub trust: Trust,
}

impl World {
    pub(super) fn new() -> Self {
        let (ca, proxy_ca) = (
            self_signed(ca("kubernetes")),
            self_signed(ca("front-proxy-ca")),
        );
        let trust = trust(Some(&[&ca]), Some((&[&proxy_ca], &["front-proxy-client"])));
        Self {
            ca,
            proxy_ca,
            trust,
        }
    }
}

/// Trust in nobody, with the standard header names.
pub fn trust_in_nobody() -> Trust {
    trust(None, None)
}

pub(super) fn trust(
    clients: Option<&[&Identity]>,
    proxies: Option<(&[&Identity], &[&str])>,
) -> Trust {
    let roots = |identities: &[&Identity]| {
        Roots::new(&identities.iter().map(|i| i.der.clone()).collect::<Vec<_>>())
    };
    let front_proxy = proxies.map(|(identities, names)| FrontProxyTrust {
        roots: roots(identities),
        allowed_names: names.iter().map(|name| (*name).to_owned()).collect(),
    });
    let names = HeaderNames::new(Some(&header_config())).unwrap();
    Trust::new(clients.map(roots), front_proxy, names, true, 1)
}

/// The standard names, and some of somebody's own.
pub(super) fn header_config() -> RequestHeader {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    RequestHeader {
        client_ca_file: "unused".into(),
        allowed_names: vec![],
        username_headers: names(&["X-Remote-User", "X-Corp-Login"]),
        uid_headers: names(&["X-Remote-Uid"]),
        group_headers: names(&["X-Remote-Group", "X_Corp_Team"]),
        extra_header_prefixes: names(&["X-Remote-Extra-", "X-Corp-Fact-"]),
    }
}

pub(super) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

/// 2027, in the middle of the life of every certificate that says nothing else.
pub(super) fn now() -> UnixTime {
    at(1_800_000_000)
}

/// DER of a name with one attribute an RDN: (OID, tag, value); all short.
pub(super) fn name_der(attributes: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
    let tlv = |tag: u8, content: &[u8]| {
        let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
        assert!(content.len() < 128);
        out.extend(content);
        out
    };
    let mut rdns = Vec::new();
    for (oid, tag, value) in attributes {
        let attribute = tlv(0x30, &[tlv(0x06, oid), tlv(*tag, value)].concat());
        rdns.extend(tlv(0x31, &attribute));
    }
    tlv(0x30, &rdns)
}
