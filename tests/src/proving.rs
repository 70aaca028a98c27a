//! What a made-up server answers when an agent proves it: as a kube-apiserver with the standard header names, which believes whoever
//! comes with a client certificate.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use mvp::identity::proof::{AUTHENTICATION, REVIEWS};
use rustls::server::danger::ClientCertVerifier;
use serde_json::json;

use crate::sim::AnyCertificate;

/// Asks for a certificate and lets any through.
pub fn any_certificate() -> Arc<dyn ClientCertVerifier> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(AnyCertificate {
        hints: Vec::new(),
        algorithms: provider.signature_verification_algorithms,
    })
}

/// The answer to a question of a proof; `None`: it is none. `certificate`: the connection has one of the client.
pub fn answer(path: &str, headers: &HeaderMap, certificate: bool) -> Option<(StatusCode, Bytes)> {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    match path {
        REVIEWS if text("x-remote-user") == "system:mvp" => {}
        AUTHENTICATION if text("x-remote-user") == "system:mvp" => {
            let names = |name: &str| format!("[\"{name}\"]");
            let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {
                "requestheader-username-headers": names("X-Remote-User"),
                "requestheader-group-headers": names("X-Remote-Group"),
                "requestheader-extra-headers-prefix": names("X-Remote-Extra-"),
            }});
            return Some((StatusCode::OK, object.to_string().into()));
        }
        _ => return None,
    }
    if !certificate {
        return Some((StatusCode::UNAUTHORIZED, Bytes::new()));
    }
    let mut extra = serde_json::Map::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix("x-remote-extra-") {
            extra.insert(key.to_owned(), json!([value.to_str().unwrap_or_default()]));
        }
    }
    let groups = [text("x-remote-group"), "system:authenticated".to_owned()];
    let user = json!({"username": text("x-remote-user"), "groups": groups, "extra": extra});
    let review = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "status": {"userInfo": user}});
    Some((StatusCode::CREATED, review.to_string().into()))
}
