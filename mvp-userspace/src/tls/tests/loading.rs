use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

use crate::identity::TrustCell;
use crate::tls::testing::{Files, client, self_signed, server, signed_by};
use crate::tls::{ClientTls, ServerTls, TlsError, TlsFault};

fn load_error(files: &Files) -> TlsError {
    ServerTls::load(&files.config()).err().unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// The algorithm's own private key inside a PKCS#8 document: what its OCTET STRING holds.
fn inside_pkcs8(der: &[u8]) -> Vec<u8> {
    fn tlv(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, header) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(u16::from_be_bytes([der[2], der[3]])), 4),
            other => panic!("length {other}"),
        };
        (&der[header..header + length], &der[header + length..])
    }
    let (body, _) = tlv(der);
    let (_version, rest) = tlv(body);
    let (_algorithm, rest) = tlv(rest);
    tlv(rest).0.to_vec()
}

#[test]
fn private_keys_in_every_format() {
    let files = Files::new();
    for (algorithm, label) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "EC PRIVATE KEY"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "EC PRIVATE KEY"),
        (&rcgen::PKCS_RSA_SHA256, "RSA PRIVATE KEY"),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        files.write(
            "apiserver.crt",
            &server(&["localhost"])
                .signed_by(&key, &files.ca.issuer)
                .unwrap()
                .pem(),
        );
        files.write("apiserver.key", &key.serialize_pem());
        ServerTls::load(&files.config()).unwrap();
        let own = pem(label, &inside_pkcs8(key.serialized_der()));
        files.write("apiserver.key", &own);
        ServerTls::load(&files.config()).unwrap();
        // As `openssl ecparam -genkey` writes it.
        files.write("apiserver.key", &format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{own}"));
        ServerTls::load(&files.config()).unwrap();
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    files.write(
        "apiserver.crt",
        &server(&["localhost"])
            .signed_by(&key, &files.ca.issuer)
            .unwrap()
            .pem(),
    );
    files.write("apiserver.key", &key.serialize_pem());
    ServerTls::load(&files.config()).unwrap();
}

#[test]
fn pem_as_people_write_it() {
    let files = Files::new();
    for change in [
        |pem: &str| pem.replace('\n', "\r\n"),
        |pem: &str| pem.trim_end().to_owned(),
        |pem: &str| format!("Bag Attributes\n  friendlyName: x\n\n{pem}\n\ntrailing text, -----\n"),
        |pem: &str| format!("\u{feff}\n{pem}"),
        |pem: &str| format!("{pem}\n\n\n"),
    ] {
        for name in ["apiserver.crt", "apiserver.key", "ca.crt"] {
            let path = files.path().join(name);
            let original = std::fs::read_to_string(&path).unwrap();
            files.write(name, &change(&original));
            ServerTls::load(&files.config()).unwrap_or_else(|error| panic!("{error}"));
            TrustCell::open(&files.config()).unwrap_or_else(|error| panic!("{error}"));
            files.write(name, &original);
        }
    }
}

#[test]
fn an_expired_certificate_is_no_reason_not_to_start() {
    let files = Files::new();
    let mut params = server(&["localhost"]);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    files.write_pair("apiserver", &signed_by(params, &files.ca));
    ServerTls::load(&files.config()).unwrap();
}

#[test]
fn errors_are_one_line_that_names_the_key() {
    let check = |change: &dyn Fn(&Files), message: &str| {
        let files = Files::new();
        change(&files);
        let error = load_error(&files);
        let text = error
            .to_string()
            .replace(&files.path().display().to_string(), "DIR");
        assert!(text.starts_with(message), "{text}\nexpected: {message}");
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(text.split(": ").next(), Some(error.key()));
        assert_eq!(error.fault(), TlsFault::File);
    };
    let remove = |files: &Files, name: &str| std::fs::remove_file(files.path().join(name)).unwrap();
    check(
        &|f| remove(f, "apiserver.crt"),
        "serving.certFile: cannot read DIR/apiserver.crt: No such file",
    );
    check(
        &|f| remove(f, "apiserver.key"),
        "serving.keyFile: cannot read DIR/apiserver.key: No such file",
    );
    check(
        &|f| remove(f, "ca.crt"),
        "clientCAFile: cannot read DIR/ca.crt",
    );
    check(
        &|f| f.write("front-proxy-ca.crt", ""),
        "requestHeader.clientCAFile: DIR/front-proxy-ca.crt holds no certificate",
    );
    check(
        &|f| f.write("apiserver.crt", "hello"),
        "serving.certFile: DIR/apiserver.crt holds no certificate",
    );
    check(
        &|f| f.write("apiserver.key", ""),
        "serving.keyFile: DIR/apiserver.key holds no private key",
    );
    let encrypted = pem("ENCRYPTED PRIVATE KEY", b"x");
    check(
        &|f| f.write("apiserver.key", &encrypted),
        "serving.keyFile: DIR/apiserver.key is encrypted",
    );
    let bad = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    check(
        &|f| f.write("apiserver.crt", bad),
        "serving.certFile: DIR/apiserver.crt is not valid PEM",
    );
    let cut = |f: &Files| f.write("ca.crt", &f.ca.pem[..f.ca.pem.len() / 2]);
    check(&cut, "clientCAFile: DIR/ca.crt is not valid PEM");
    let second = |f: &Files| {
        f.write(
            "ca.crt",
            &format!("{}{}", f.ca.pem, pem("CERTIFICATE", b"x")),
        )
    };
    check(
        &second,
        "clientCAFile: DIR/ca.crt: certificate 2 is malformed",
    );
    check(
        &|f| f.write("apiserver.key", &pem("PRIVATE KEY", b"x")),
        "serving.keyFile: DIR/apiserver.key is not a usable private key",
    );
    let other = self_signed(client("other", &[]));
    let mismatch = |f: &Files| f.write("apiserver.key", &other.key_pem);
    check(
        &mismatch,
        "serving.keyFile: DIR/apiserver.key does not match the certificate",
    );
    check(
        &|f| f.write("apiserver.key", &"x".repeat((8 << 20) + 1)),
        "serving.keyFile: DIR/apiserver.key is larger than 8388608 bytes",
    );
}

#[test]
fn errors_of_the_other_owners() {
    let files = Files::new();
    let mut config = files.config();
    config.upstream.server_name = "not a name".to_owned();
    let error = ClientTls::load(&config).err().unwrap();
    assert_eq!(
        (error.key(), error.fault()),
        ("upstream.serverName", TlsFault::Config)
    );

    let mut config = files.config();
    config.upstream.ca_file = Path::new("/nonexistent/ca.crt").to_owned();
    assert_eq!(
        ClientTls::load(&config).err().unwrap().key(),
        "upstream.caFile"
    );

    let other = self_signed(client("other", &[]));
    files.write("front-proxy-client.key", &other.key_pem);
    let error = ClientTls::load(&files.config()).err().unwrap();
    assert_eq!(error.key(), "upstream.clientKeyFile");

    let mut config = files.config();
    config.sni = vec![crate::config::SniCertificate {
        pair: files.pair("front-proxy-client"),
        names: vec![],
    }];
    assert_eq!(
        ServerTls::load(&config).err().unwrap().key(),
        "sni[0].keyFile"
    );
}

#[test]
fn one_authority_for_users_and_proxies_needs_allowed_names() {
    let files = Files::new();
    let mut config = files.config();
    files.write(
        "front-proxy-ca.crt",
        &format!("{}{}", files.front_proxy_ca.pem, files.ca.pem),
    );
    TrustCell::open(&config).unwrap();
    config
        .request_header
        .as_mut()
        .unwrap()
        .allowed_names
        .clear();
    let error = TrustCell::open(&config).err().unwrap();
    assert_eq!(
        (error.key(), error.fault()),
        ("requestHeader.clientCAFile", TlsFault::Config)
    );
}
