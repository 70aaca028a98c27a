//! Which identity headers leave the agent: none of the client's, and ours.

use http::{HeaderMap, HeaderName, header};

use super::authenticate::Caller;
use super::trust::{HeaderRole, Trust, is_hop_marker};

/// Set on a request that one kube-apiserver or agent forwards to another, so that it is forwarded once
/// (`apiserver/pkg/util/peerproxy/peerproxy_handler.go`).
pub const PEER_PROXIED: HeaderName = HeaderName::from_static("x-kubernetes-peer-proxied");

/// Values removed from a request, by kind. From a front proxy they are how it speaks; from anyone else an attempt to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stripped {
    /// Values that named a user.
    pub username: usize,
    /// Values that named a uid.
    pub uid: usize,
    /// Values that named a group.
    pub group: usize,
    /// Values of extra fields.
    pub extra: usize,
    /// Other headers of the X-Remote- family, and any unknown one while a server's names cannot be read.
    pub other: usize,
    /// Hop markers from callers that may not set one.
    pub hop: usize,
}

impl Stripped {
    /// How many values were removed in all.
    pub fn total(&self) -> usize {
        self.username + self.uid + self.group + self.extra + self.other + self.hop
    }
}

/// What a request says about having been forwarded before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HopMark {
    /// A front proxy says so: handle it locally.
    Honoured,
    /// Somebody else says so: ignore it.
    Forged,
    /// The request was not forwarded before, or does not say so.
    Absent,
}

/// Removes what the client said about identity and says who the caller is.
///
/// To be called after hop-by-hop headers, and those that `Connection` nominates, are gone ([`super::admit()`]). Deleted are every
/// configured name, every name that a server publishes ([`super::proof::Learned`]), the whole X-Remote- family and the hop marker, in any case, number, and with `_` for `-`. For an asserted
/// caller the headers of its user are set, and `Authorization` is deleted as kube-apiserver does once somebody is authenticated.
/// `Impersonate-*` stays: the server authorizes it against the user asserted here.
pub(super) fn rewrite_headers(headers: &mut HeaderMap, caller: &Caller, trust: &Trust) -> Stripped {
    let stripped = strip_headers(headers, trust);
    if let Some(user) = caller.user() {
        headers.remove(header::AUTHORIZATION);
        user.assert_in(headers);
    }
    stripped
}

/// Only removes what the client said about identity; also for trailers, where none of it may pass either.
pub fn strip_headers(headers: &mut HeaderMap, trust: &Trust) -> Stripped {
    let mut stripped = Stripped::default();
    // Almost no request has any, and then nothing is allocated.
    let found: Vec<(HeaderName, HeaderRole)> = headers
        .keys()
        .filter_map(|name| Some((name.clone(), trust.kind(name)?)))
        .collect();
    for (name, kind) in found {
        let count = headers.get_all(&name).iter().count();
        headers.remove(&name);
        let counter = match kind {
            HeaderRole::Username => &mut stripped.username,
            HeaderRole::Uid => &mut stripped.uid,
            HeaderRole::Group => &mut stripped.group,
            HeaderRole::Extra => &mut stripped.extra,
            HeaderRole::OtherRemote | HeaderRole::Unlisted => &mut stripped.other,
            HeaderRole::Hop => &mut stripped.hop,
        };
        *counter += count;
    }
    stripped
}

/// What the client's headers, before [`rewrite_headers`], say about having been forwarded, and whether it may say so.
///
/// kube-apiserver compares the first value with `true` and believes anyone; here any `true` of a front proxy counts, since
/// kube-apiserver appends its own to a forged one, and nobody else is believed.
pub(super) fn hop_marked(headers: &HeaderMap, caller: &Caller) -> HopMark {
    if caller.is_front_proxy() {
        let marked = headers
            .get_all(PEER_PROXIED)
            .iter()
            .any(|value| value == "true");
        return if marked {
            HopMark::Honoured
        } else {
            HopMark::Absent
        };
    }
    let named = headers.keys().any(|name| is_hop_marker(name.as_str()));
    if named {
        HopMark::Forged
    } else {
        HopMark::Absent
    }
}
