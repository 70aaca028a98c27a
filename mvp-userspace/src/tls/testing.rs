//! Certificates made on the spot, and a configuration that names them.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SigningKey,
};
use rustls::pki_types::CertificateDer;

use crate::config;

/// A CA, or any other certificate with its key.
pub(crate) struct Identity {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    pub issuer: Issuer<'static, KeyPair>,
}

/// Parameters of a client certificate with these common name and organizations (two at most, as rcgen keeps one attribute a
/// type, and `O` can be spelled in two ways).
pub(crate) fn client(common_name: &str, organizations: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (index, organization) in organizations.iter().enumerate() {
        let kind = [
            DnType::OrganizationName,
            DnType::CustomDnType(vec![2, 5, 4, 10]),
        ][index]
            .clone();
        params.distinguished_name.push(kind, *organization);
    }
    if !common_name.is_empty() {
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// Parameters of a server certificate for these names.
pub(crate) fn server(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Not A Name");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

pub(crate) fn ca(common_name: &str) -> CertificateParams {
    let mut params = client(common_name, &[]);
    params.extended_key_usages.clear();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub(crate) fn self_signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    identity(params, key, &certificate)
}

pub(crate) fn signed_by(params: CertificateParams, issuer: &Identity) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer.issuer).unwrap();
    identity(params, key, &certificate)
}

/// The same certificate in version 1, signed again: without extensions, as `openssl x509 -req` makes them.
pub(crate) fn version1(params: CertificateParams, issuer: Option<&Identity>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let (certificate, signer) = match issuer {
        Some(issuer) => (
            params.signed_by(&key, &issuer.issuer).unwrap(),
            issuer.issuer.key(),
        ),
        None => (params.self_signed(&key).unwrap(), &key),
    };
    let mut certificate = inside(certificate.der());
    let mut fields = inside(element(&mut certificate));
    let algorithm = element(&mut certificate);
    let mut kept = Vec::new();
    while !fields.is_empty() {
        let field = element(&mut fields);
        // The version and the extensions.
        if !matches!(field[0], 0xa0 | 0xa3) {
            kept.extend(field);
        }
    }
    let signed = encode(0x30, &kept);
    let signature = [vec![0], signer.sign(&signed).unwrap()].concat();
    let whole = [&signed[..], algorithm, &encode(0x03, &signature)].concat();
    let der = encode(0x30, &whole);
    Identity {
        pem: pem(&der),
        der: der.into(),
        key_pem: key.serialize_pem(),
        issuer: Issuer::new(params, key),
    }
}

/// A certificate as PEM.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// The contents of the DER element at the start of `der`.
fn inside(der: &[u8]) -> &[u8] {
    let (header, length) = header(der);
    &der[header..header + length]
}

/// Cuts one whole DER element off the front.
fn element<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (header, length) = header(rest);
    let (element, after) = rest.split_at(header + length);
    *rest = after;
    element
}

/// The lengths of an element's header and of its contents.
fn header(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ 0..=0x7f => (2, short.into()),
        long => {
            let digits = &der[2..2 + usize::from(long & 0x7f)];
            let fold = |sum: usize, digit: &u8| (sum << 8) | usize::from(*digit);
            (2 + digits.len(), digits.iter().fold(0, fold))
        }
    }
}

fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut der = vec![tag];
    match length {
        0..=0x7f => der.push(length as u8),
        0x80..=0xff => der.extend([0x81, length as u8]),
        _ => der.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend(contents);
    der
}

/// A critical extension that nobody knows.
pub(crate) fn unknown_critical() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

/// A critical `certificatePolicies` with one policy.
pub(crate) fn critical_policies() -> CustomExtension {
    let policies = vec![0x30, 7, 0x30, 5, 0x06, 3, 0x2a, 3, 4];
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 32], policies);
    extension.set_criticality(true);
    extension
}

/// An extension that nobody knows, to make certificates as large as wanted.
pub(crate) fn padding(bytes: usize) -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57683, 99], vec![0; bytes])
}

fn identity(params: CertificateParams, key: KeyPair, certificate: &rcgen::Certificate) -> Identity {
    Identity {
        der: certificate.der().clone(),
        pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        issuer: Issuer::new(params, key),
    }
}

/// A directory of files as a control-plane node has them, and the configuration that names them.
pub(crate) struct Files {
    pub dir: tempfile::TempDir,
    pub ca: Identity,
    pub front_proxy_ca: Identity,
}

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
            ca: self_signed(ca("kubernetes")),
            front_proxy_ca: self_signed(ca("front-proxy-ca")),
        };
        files.write("ca.crt", &files.ca.pem);
        files.write("front-proxy-ca.crt", &files.front_proxy_ca.pem);
        files.write_pair(
            "apiserver",
            &signed_by(server(&["kubernetes.default.svc", "localhost"]), &files.ca),
        );
        files.write_pair(
            "front-proxy-client",
            &signed_by(client("front-proxy-client", &[]), &files.front_proxy_ca),
        );
        files
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    pub(crate) fn write_pair(&self, name: &str, identity: &Identity) {
        self.write(&format!("{name}.crt"), &identity.pem);
        self.write(&format!("{name}.key"), &identity.key_pem);
    }

    pub(crate) fn pair(&self, name: &str) -> config::KeyPair {
        config::KeyPair {
            cert_file: self.path().join(format!("{name}.crt")),
            key_file: self.path().join(format!("{name}.key")),
        }
    }

    pub(crate) fn config(&self) -> config::Config {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let second = Duration::from_secs(1);
        config::Config {
            advertise: None,
            node: "cp-a".to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            serving: self.pair("apiserver"),
            serving_http2: config::Http2::Own,
            sni: vec![],
            client_ca_file: Some(self.path().join("ca.crt")),
            request_header: Some(config::RequestHeader {
                client_ca_file: self.path().join("front-proxy-ca.crt"),
                allowed_names: names(&["front-proxy-client"]),
                username_headers: names(&["X-Remote-User"]),
                uid_headers: names(&["X-Remote-Uid"]),
                group_headers: names(&["X-Remote-Group"]),
                extra_header_prefixes: names(&["X-Remote-Extra-"]),
            }),
            upstream: config::Upstream {
                ca_file: self.path().join("ca.crt"),
                server_name: "kubernetes.default.svc".to_owned(),
                client: Some(self.pair("front-proxy-client")),
                connect_timeout: second,
                ping_interval: second,
                ping_timeout: second,
                http2: config::Http2::Own,
                connections: 1,
            },
            local: config::Endpoint {
                name: "cp-a".to_owned(),
                host: "127.0.0.2".to_owned(),
                port: 6443,
            },
            peers: config::Peers::default(),
            admin: config::Admin {
                hosts: Vec::new(),
                socket: "/run/mvp/admin.sock".into(),
                listen: ([127, 0, 0, 1], 0).into(),
            },
            kernel: config::Kernel {
                steering: config::Mode::Off,
                splice: config::SpliceMode::Copy,
                shortcut: config::Mode::Off,
                pin_path: self.path().to_owned(),
                settle: second,
                own_source: std::net::Ipv4Addr::new(127, 66, 0, 1),
                peer_ports: 700..=999,
                manifest: "/nowhere".into(),
            },
            retire: config::Retire {
                within: std::time::Duration::from_secs(30),
            },
            inspect: config::Inspect {
                mode: config::InspectMode::Always,
                local_sources: Vec::new(),
                except_sources: Vec::new(),
            },
            relay: config::Relay {
                mode: config::Mode::Off,
                after: 20,
                window: second,
                max_share: 0.5,
                without_server_name: false,
                certificate_age: second,
            },
            threads: 1,
            limits: config::Limits {
                connections: 1,
                pending_handshakes: 1,
                handshake_timeout: second,
                header_timeout: second,
                header_bytes: 65536,
                header_bytes_per_connection: 65536,
                header_bytes_total: 1 << 20,
                header_count: 100,
                streams_per_connection: 1,
                pending_resets: 1,
                cancellations: 1,
                tunnels_per_client: 1,
                idle_timeout: second,
                response_timeout: second,
            },
            discovery: config::Discovery {
                interval: second,
                idle_interval: second,
                timeout: second,
                refresh: second,
                stale_after: second,
                max_bytes: 1,
                retain: Duration::ZERO,
            },
            drain: config::Drain {
                deadline: second,
                wait_when_replaced: false,
            },
            interoperability_proxy: true,
            manifest: None,
        }
    }
}
