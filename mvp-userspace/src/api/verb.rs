//! API verbs and sets of them.

/// A verb of the Kubernetes API, as discovery documents and RBAC name it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Verb {
    /// GET of one object.
    Get,
    /// GET of a collection.
    List,
    /// GET with `watch=true`, or the legacy `/watch/` prefix.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH, whatever its media type; server-side apply is one too.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
    /// The legacy `/api/v1/proxy/…` prefix.
    Proxy,
    /// A method that is no verb (OPTIONS, CONNECT, …): RequestInfo's "".
    Other,
}

/// A set of verbs in two bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct VerbSet(u16);

impl Verb {
    /// Every verb, in the order of the bits of a [`VerbSet`].
    pub const ALL: [Verb; 10] = [
        Verb::Get,
        Verb::List,
        Verb::Watch,
        Verb::Create,
        Verb::Update,
        Verb::Patch,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Proxy,
        Verb::Other,
    ];

    /// The name in discovery documents and RBAC rules; empty for [`Verb::Other`].
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Proxy => "proxy",
            Verb::Other => "",
        }
    }
}

impl VerbSet {
    /// The set of a resource whose discovery document lists no verb.
    pub const EMPTY: VerbSet = VerbSet(0);

    /// Unknown names are ignored: a verb that no request can have cannot be requested.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = Self::EMPTY;
        for name in names {
            if let Some(verb) = Verb::ALL
                .into_iter()
                .find(|v| v.as_str() == name && !name.is_empty())
            {
                set.insert(verb);
            }
        }
        set
    }

    /// Adds one; a verb that is there already stays.
    pub fn insert(&mut self, verb: Verb) {
        self.0 |= 1 << verb as u8;
    }

    /// Whether the verb is one of them.
    pub fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// Whether there is none, as for a resource whose document lists no verb.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if every verb of `other` is in `self`.
    pub fn is_superset(self, other: VerbSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// The verbs that are in either.
    pub fn union(self, other: VerbSet) -> VerbSet {
        VerbSet(self.0 | other.0)
    }

    /// In the order of [`Verb::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |v| self.contains(*v))
    }
}
