//! What the fuzz target of whole requests needs of this room: trust with any header names, and clients with proved identities.

use std::sync::Arc;

use super::examine::{CertIdentity, FrontProxyVerdict, X509Verdict};
use super::{HeaderNames, Trust, User};
use crate::config::RequestHeader;

/// Trust in these header names, and who may come.
pub(crate) struct Faces {
    pub trust: Trust,
    /// Has a certificate of the user `alice` in the group `dev`.
    pub user: CertIdentity,
    /// Has a certificate of a front proxy.
    pub proxy: CertIdentity,
}

/// `None`: names that no configuration may have.
pub(crate) fn faces(header: &RequestHeader) -> Option<Faces> {
    let names = HeaderNames::new(Some(header)).ok()?;
    let groups = vec!["dev".to_owned()];
    let alice = User::new("alice".into(), String::new(), groups, Vec::new(), &names).ok()?;
    let trust = Trust::new(None, None, names, true, 1);
    let face = |front_proxy, x509| CertIdentity::proved(front_proxy, x509);
    Some(Faces {
        trust,
        user: face(
            FrontProxyVerdict::NotConfigured,
            X509Verdict::User(Arc::new(alice)),
        ),
        proxy: face(FrontProxyVerdict::Verified, X509Verdict::NotConfigured),
    })
}
