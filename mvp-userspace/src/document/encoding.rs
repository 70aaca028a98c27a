//! The encodings of a root's document.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::{
    AggregatedVersion, Document, Layout, aggregated_json, aggregated_protobuf, aggregated_yaml,
    api_group_list, to_json, to_yaml,
};

/// The media types of a discovery document that are merged. CBOR, alpha in every release, is asked of no server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Media {
    /// What clients get if they accept anything.
    Json,
    /// For people; no client library asks for it.
    Yaml,
    /// `runtime.Unknown` behind the magic `k8s\0` (`pkg/runtime/serializer/protobuf`). Only legacy documents have it.
    Protobuf,
}

/// What kind of document is in it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Form {
    /// Aggregated, `apidiscovery.k8s.io/v2`.
    V2,
    /// Aggregated, `apidiscovery.k8s.io/v2beta1`.
    V2beta1,
    /// `APIGroupList`, `APIVersions`, `APIGroup`, `APIResourceList`.
    Legacy,
}

/// The form in which a server last reported what it serves.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum DiscoveryForm {
    /// Aggregated v2 (Kubernetes 1.30 and later). It is always asked for with `profile=nopeer`, so that a server with the
    /// native feature on reports itself only; no server says in its answer whether it knows the profile.
    V2,
    /// Aggregated v2beta1 (1.26 behind a gate, 1.27-1.32 by default).
    V2beta1,
    /// One document for each group version.
    Legacy,
}

/// One of the encodings that are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Encoding {
    /// What kind of document is encoded.
    pub form: Form,
    /// How it is serialized.
    pub media: Media,
    /// Compressed, for clients whose `Accept-Encoding` has `gzip`.
    pub gzip: bool,
}

impl Form {
    /// The form whose validators a poller has, if it is one that has any.
    pub fn source(self) -> Option<DiscoveryForm> {
        match self {
            Self::V2 => Some(DiscoveryForm::V2),
            Self::V2beta1 => Some(DiscoveryForm::V2beta1),
            Self::Legacy => None,
        }
    }
}

impl Media {
    /// The media type without parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Above this many bytes kube-apiserver compresses for clients that accept it (`defaultGzipThresholdBytes` in
/// `apiserver/pkg/endpoints/handlers/responsewriters/writers.go`).
pub const GZIP_ABOVE: usize = 128 * 1024;

/// Compresses as kube-apiserver does: level 1.
pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let _ = encoder.write_all(bytes);
    Bytes::from(encoder.finish().unwrap_or_default())
}

/// The whole document, without compression. Layout matters to JSON only.
pub fn encode_root(document: &Document, form: Form, media: Media, layout: Layout) -> Bytes {
    let aggregated = |version| match media {
        Media::Json => aggregated_json(document, version, layout),
        Media::Yaml => aggregated_yaml(document, version).unwrap_or_default(),
        Media::Protobuf => aggregated_protobuf(document, version),
    };
    Bytes::from(match form {
        Form::V2 => aggregated(AggregatedVersion::V2),
        Form::V2beta1 => aggregated(AggregatedVersion::V2beta1),
        Form::Legacy => {
            let list = api_group_list(document);
            encode(&list, || list.to_protobuf(), media, layout)
        }
    })
}

/// One legacy object, which knows its own form in protobuf.
pub fn encode<T: Serialize>(
    object: &T,
    protobuf: impl FnOnce() -> Vec<u8>,
    media: Media,
    layout: Layout,
) -> Vec<u8> {
    match media {
        Media::Json => to_json(object, layout),
        Media::Yaml => to_yaml(object).unwrap_or_default(),
        Media::Protobuf => protobuf(),
    }
}
