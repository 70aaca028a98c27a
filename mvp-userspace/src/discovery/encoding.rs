//! The encodings of a root's document.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Source;
use super::view::{Document, encode, protobuf};

/// The media types of a discovery document that are merged. CBOR, alpha in every release, is asked of no server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// What kind of document is in it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Form {
    V2,
    V2beta1,
    /// `APIGroupList`, `APIVersions`, `APIGroup`, `APIResourceList`.
    Legacy,
}

/// One of the encodings that are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Encoding {
    pub form: Form,
    pub media: Media,
    pub gzip: bool,
}

impl Form {
    /// The form whose validators a poller has, if it is one that has any.
    pub fn source(self) -> Option<Source> {
        match self {
            Self::V2 => Some(Source::V2),
            Self::V2beta1 => Some(Source::V2beta1),
            Self::Legacy => None,
        }
    }
}

impl Media {
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

/// As kube-apiserver does it: level 1.
pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let _ = encoder.write_all(bytes);
    Bytes::from(encoder.finish().unwrap_or_default())
}

/// The whole document, without compression.
pub fn encode_root(document: &Document, form: Form, media: Media) -> Bytes {
    let bytes = match (form, media) {
        (Form::V2, Media::Json) => encode::aggregated_json(document, Source::V2),
        (Form::V2beta1, Media::Json) => encode::aggregated_json(document, Source::V2beta1),
        (Form::Legacy, Media::Json) => encode::json(&encode::api_group_list(document)),
        (Form::V2, Media::Yaml) => encode::yaml(&encode::aggregated_json(document, Source::V2)),
        (Form::V2beta1, Media::Yaml) => encode::yaml(&encode::aggregated_json(document, Source::V2beta1)),
        (Form::Legacy, Media::Yaml) => encode::yaml(&encode::json(&encode::api_group_list(document))),
        (Form::V2, Media::Protobuf) => protobuf::aggregated(document, Source::V2),
        (Form::V2beta1, Media::Protobuf) => protobuf::aggregated(document, Source::V2beta1),
        (Form::Legacy, Media::Protobuf) => protobuf::api_group_list(&encode::api_group_list(document)),
    };
    Bytes::from(bytes)
}
