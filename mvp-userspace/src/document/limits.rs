//! What a discovery document may contain. Documents come over the network from a server that may be broken or hostile, and
//! kube-apiserver copies into its own what extension API servers report, so that the limits protect the agent from those as well.

/// Groups in one document. A real 1.36 with every API on has 22; a platform with many operators has hundreds.
pub const MAX_GROUPS: usize = 4_096;
/// Group versions in one document, over all groups.
pub const MAX_VERSIONS: usize = 8_192;
/// Resources and subresources in one document, over all groups. A real 1.36 has 200.
pub const MAX_ENTRIES: usize = 32_768;
/// Verbs in one list. Kubernetes has eight.
pub const MAX_VERBS: usize = 64;
/// Bytes of all names of all entries of one document, as kept in memory.
pub const MAX_NAME_BYTES: usize = 8 << 20;

/// Why a document was refused. All are the fault of the server that sent it (or of an extension server it speaks for).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The offset of the first byte that is not UTF-8.
    #[error("the server's discovery document is not UTF-8 (byte {0})")]
    NotUtf8(usize),
    /// The parser's message, with the line and column.
    #[error("the server's discovery document cannot be read as JSON of its kind: {0}")]
    Json(String),
    /// The parser's message.
    #[error("the server's discovery document cannot be read as protobuf of its kind: {0}")]
    Protobuf(String),
    /// `apiVersion` and `kind` are not those of the document that was asked for.
    #[error("the server's discovery document is of kind {found:?}, not {wanted}")]
    Kind {
        /// The `apiVersion` and `kind` that it has.
        found: String,
        /// Those that were asked for.
        wanted: &'static str,
    },
    /// A limit on documents was exceeded; the rest was not read.
    #[error("the server's discovery document holds more than {limit} {what}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// As many are allowed.
        limit: usize,
    },
}

/// Counts while a document is read, and stops at the limits.
#[derive(Default)]
pub(super) struct Counts {
    groups: usize,
    versions: usize,
    objects: usize,
    name_bytes: usize,
    key_bytes: usize,
    over: Option<DecodeError>,
}

impl Counts {
    pub(super) fn group(&mut self) -> Result<(), &'static str> {
        self.groups += 1;
        self.check(self.groups, MAX_GROUPS, "groups")
    }

    pub(super) fn version(&mut self) -> Result<(), &'static str> {
        self.versions += 1;
        self.check(self.versions, MAX_VERSIONS, "versions")
    }

    /// Counts one resource or subresource object, kept or not.
    pub(super) fn object(&mut self) -> Result<(), &'static str> {
        self.objects += 1;
        self.check(self.objects, MAX_ENTRIES, "resources")
    }

    pub(super) fn verbs(&mut self, count: usize) -> Result<(), &'static str> {
        self.check(count, MAX_VERBS, "verbs of one resource")
    }

    /// Counts memory kept for names, in bytes.
    pub(super) fn keep(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.name_bytes += bytes;
        self.check(self.name_bytes, MAX_NAME_BYTES, "bytes of names")
    }

    /// Counts the names of what routing gets, in bytes: there each key has all of its names.
    pub(super) fn key(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.key_bytes += bytes;
        self.check(self.key_bytes, MAX_NAME_BYTES, "bytes of names")
    }

    /// The limit that was passed, if one was: serde errors carry text only.
    pub(super) fn error(self, error: &serde_json::Error) -> DecodeError {
        self.error_or(|| DecodeError::Json(error.to_string()))
    }

    /// The limit that was passed, or the error that something else made.
    pub(super) fn error_or(self, error: impl FnOnce() -> DecodeError) -> DecodeError {
        self.over.unwrap_or_else(error)
    }

    fn check(
        &mut self,
        count: usize,
        limit: usize,
        what: &'static str,
    ) -> Result<(), &'static str> {
        within(count, limit, what).map_err(|error| {
            self.over = Some(error);
            "over a limit"
        })
    }
}

pub(super) fn within(count: usize, limit: usize, what: &'static str) -> Result<(), DecodeError> {
    match count > limit {
        true => Err(DecodeError::TooMany { what, limit }),
        false => Ok(()),
    }
}
