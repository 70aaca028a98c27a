//! A certificate's user arrives whole at every server, or is refused.

use crate::route::{Release, RouteTable};
use crate::tls::IdentityClass;

/// Since this release a kube-apiserver reads a uid from a client certificate itself (gate `AllowParsingUserUIDFromCertAuth`). An older one
/// does not, so that a user who comes to it without one has lost nothing.
const READS_UID: Release = Release {
    major: 1,
    minor: 34,
};

/// A server that may be chosen and would ignore an asserted user's uid, although it would read it from the user's certificate.
pub(super) fn server_without_uids(table: &RouteTable) -> Option<String> {
    table
        .members()
        .iter()
        .map(|member| &member.server)
        .find(|server| {
            !server.takes_uid()
                && server.proved(IdentityClass::FrontProxy)
                && server.release().is_none_or(|release| release >= READS_UID)
        })
        .map(|server| server.name.to_string())
}
