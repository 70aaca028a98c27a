//! The only door to an upstream request. Who asks is found out, what the client says about that is deleted, and what was found is said
//! instead, in one step and in the only order that is safe.

use std::borrow::Cow;

use http::header::{ACCEPT, ACCEPT_ENCODING, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::authenticate::{Caller, Unauthorized, authenticate};
use super::credentials::{Credentials, Hasher};
use super::examine::CertIdentity;
use super::headers::{HopMark, Stripped, hop_marked, rewrite_headers};
use super::hop_by_hop::{prepare_request, strip_hop_by_hop};
use super::trust::Trust;
use super::user::BadIdentity;
use crate::tls::IdentityClass;

/// A request's head as the client sent it, with what is known of the connection.
#[derive(Debug)]
pub struct Head<'h> {
    /// Whole: nothing has been removed.
    pub headers: &'h mut HeaderMap,
    /// What the client's certificate proves.
    pub certificate: Option<&'h CertIdentity>,
    /// The client's address, as [`super::forwarded_for`] made it.
    pub forwarded_for: &'h HeaderValue,
    /// Hashes tokens with keys of this process's own.
    pub hasher: &'h Hasher,
}

/// A request that may be sent to a server: its headers say who asks, and nothing else that the client claimed to be. [`admit()`] alone
/// makes one.
#[derive(Clone, Debug)]
pub struct Admitted<'h> {
    caller: Caller,
    credentials: Credentials,
    mark: HopMark,
    stripped: Stripped,
    headers: Cow<'h, HeaderMap>,
}

/// A header that says in which form and under which conditions an answer is wanted, and nothing of who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    /// The media types that the client accepts.
    Accept,
    /// The codings that the client accepts, such as gzip.
    AcceptEncoding,
    /// A time, for documents without an ETag.
    IfModifiedSince,
    /// The ETags that the client has.
    IfNoneMatch,
    /// A part of the body; servers answer it for files only.
    Range,
}

/// Finds out who asks, and turns the client's headers into those for a server.
///
/// `server_without_uids`: a server that would not hear of a certificate's uid, although it would read it from the certificate; looked for only
/// if the user has one.
///
/// # Errors
/// The caller is not to be believed, or no server could be told exactly who it is. The headers are as the client sent them.
pub fn admit<'h>(
    head: Head<'h>,
    trust: &Trust,
    server_without_uids: impl FnOnce() -> Option<String>,
) -> Result<Admitted<'h>, Unauthorized> {
    let headers = head.headers;
    let caller = authenticate(head.certificate, headers, trust)?;
    if let Caller::Asserted(user) = &caller
        && !user.uid().is_empty()
        && let Some(server) = server_without_uids()
    {
        return Err(Unauthorized::Identity(BadIdentity::UidNotTaken(server)));
    }
    // By the client's own headers, before any is deleted.
    let credentials = Credentials::of(&caller, headers, head.hasher);
    let mark = hop_marked(headers, &caller);
    // What the client nominates as hop-by-hop goes before anything of the agent's is set, so that it cannot nominate that.
    strip_hop_by_hop(headers);
    let stripped = rewrite_headers(headers, &caller, trust);
    prepare_request(headers, head.forwarded_for);
    Ok(Admitted {
        caller,
        credentials,
        mark,
        stripped,
        headers: Cow::Borrowed(headers),
    })
}

impl Admitted<'_> {
    /// Who asks, as the agent found out.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What a server is shown of the caller.
    pub fn credentials(&self) -> Credentials {
        self.credentials
    }

    /// The class of connection that the request must travel on.
    pub fn class(&self) -> IdentityClass {
        self.credentials.class()
    }

    /// What the client said about having been forwarded before.
    pub fn mark(&self) -> HopMark {
        self.mark
    }

    /// A trusted proxy has forwarded the request already.
    pub fn is_hop_marked(&self) -> bool {
        self.mark == HopMark::Honoured
    }

    /// What was deleted of what the client said about identity.
    pub fn stripped(&self) -> &Stripped {
        &self.stripped
    }

    /// The headers for a server.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The same request of the same caller with other wishes; `None` takes one off.
    #[must_use]
    pub fn wishing(&self, wishes: &[(Wish, Option<HeaderValue>)]) -> Admitted<'static> {
        let mut headers = HeaderMap::clone(&self.headers);
        for (wish, value) in wishes {
            match value {
                Some(value) => headers.insert(wish.header(), value.clone()),
                None => headers.remove(wish.header()),
            };
        }
        Admitted {
            caller: self.caller.clone(),
            credentials: self.credentials,
            mark: self.mark,
            stripped: self.stripped,
            headers: Cow::Owned(headers),
        }
    }
}

impl Wish {
    fn header(self) -> HeaderName {
        match self {
            Self::Accept => ACCEPT,
            Self::AcceptEncoding => ACCEPT_ENCODING,
            Self::IfModifiedSince => IF_MODIFIED_SINCE,
            Self::IfNoneMatch => IF_NONE_MATCH,
            Self::Range => RANGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::header::AUTHORIZATION;

    use super::*;
    use crate::identity::examine::{FrontProxyVerdict, X509Verdict};
    use crate::identity::forwarded_for;
    use crate::identity::testing::World;
    use crate::identity::user::User;

    /// The certificate of `alice`, with this uid.
    fn alice(world: &World, uid: &str) -> CertIdentity {
        let names = world.trust.names();
        let groups = vec!["dev".to_owned()];
        let user = User::new("alice".into(), uid.into(), groups, Vec::new(), names).unwrap();
        CertIdentity::proved(
            FrontProxyVerdict::NotConfigured,
            X509Verdict::User(Arc::new(user)),
        )
    }

    fn sent(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn admit_with<'h>(
        headers: &'h mut HeaderMap,
        certificate: Option<&'h CertIdentity>,
        forwarded_for: &'h HeaderValue,
        hasher: &'h Hasher,
        trust: &Trust,
    ) -> Result<Admitted<'h>, Unauthorized> {
        let head = Head {
            headers,
            certificate,
            forwarded_for,
            hasher,
        };
        admit(head, trust, || Some("cp-b".to_owned()))
    }

    #[test]
    fn nothing_that_a_client_says_of_itself_passes_the_door() {
        let (world, hasher) = (World::new(), Hasher::default());
        let (certificate, from) = (alice(&world, ""), forwarded_for([192, 0, 2, 7].into()));
        let mut headers = sent(&[
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-kubernetes-peer-proxied", "true"),
            ("authorization", "Bearer t"),
            (
                "connection",
                "x-remote-user, x-forwarded-for, impersonate-user",
            ),
            ("impersonate-user", "bob"),
            ("accept", "application/json"),
            ("expect", "100-continue"),
        ]);
        let admitted = admit_with(
            &mut headers,
            Some(&certificate),
            &from,
            &hasher,
            &world.trust,
        );
        let admitted = admitted.unwrap();
        assert_eq!(admitted.class(), IdentityClass::FrontProxy);
        assert_eq!(admitted.caller().name_for_log(), "alice");
        assert_eq!(
            (admitted.mark(), admitted.is_hop_marked()),
            (HopMark::Forged, false)
        );
        // What was nominated had gone before.
        assert_eq!(
            (admitted.stripped().username, admitted.stripped().group),
            (0, 1)
        );
        let left = sent(&[
            ("x-remote-user", "alice"),
            ("x-remote-group", "dev"),
            ("impersonate-user", "bob"),
            ("accept", "application/json"),
            ("x-forwarded-for", "192.0.2.7"),
        ]);
        assert_eq!(*admitted.headers(), left);
    }

    #[test]
    fn wishes_change_nothing_of_who_asks() {
        let (world, hasher) = (World::new(), Hasher::default());
        let from = forwarded_for([192, 0, 2, 7].into());
        let mut headers = sent(&[("authorization", "Bearer t"), ("if-none-match", "x")]);
        let admitted = admit_with(&mut headers, None, &from, &hasher, &world.trust).unwrap();
        let accept = HeaderValue::from_static("application/json");
        let other = admitted.wishing(&[
            (Wish::IfNoneMatch, None),
            (Wish::Accept, Some(accept.clone())),
        ]);
        assert_eq!(other.credentials(), admitted.credentials());
        let (mut before, mut after) = (admitted.headers().clone(), other.headers().clone());
        assert_eq!(after.remove(ACCEPT), Some(accept));
        assert!(before.remove(IF_NONE_MATCH).is_some());
        assert_eq!(after, before);
        assert_eq!(after[AUTHORIZATION], "Bearer t");
    }

    #[test]
    fn who_is_refused_keeps_its_headers() {
        let (world, hasher) = (World::new(), Hasher::default());
        let (certificate, from) = (alice(&world, "7"), forwarded_for([192, 0, 2, 7].into()));
        let mut headers = sent(&[("x-remote-user", "root"), ("connection", "accept")]);
        let before = headers.clone();
        let refused = admit_with(
            &mut headers,
            Some(&certificate),
            &from,
            &hasher,
            &world.trust,
        );
        let lost = BadIdentity::UidNotTaken("cp-b".to_owned());
        assert_eq!(refused.unwrap_err(), Unauthorized::Identity(lost));
        assert_eq!(headers, before);
    }
}
