//! A certificate's user arrives whole at every server, or is refused.

use crate::identity::{BadIdentity, Caller, Unauthorized};
use crate::route::{Release, RouteTable};
use crate::tls::IdentityClass;

/// Since this release a kube-apiserver reads a uid from a client certificate itself (gate `AllowParsingUserUIDFromCertAuth`). An older one
/// does not, so that a user who comes to it without one has lost nothing.
const READS_UID: Release = Release {
    major: 1,
    minor: 34,
};

/// # Errors
/// The user has a uid that a server which may be asked would not hear of, although it would read it from the certificate.
pub fn check(caller: &Caller, table: &RouteTable) -> Result<(), Unauthorized> {
    let Caller::Asserted(user) = caller else {
        return Ok(());
    };
    if user.uid().is_empty() {
        return Ok(());
    }
    let loses = table
        .members()
        .iter()
        .map(|member| &member.server)
        .find(|server| {
            !server.takes_uid()
                && server.proved(IdentityClass::FrontProxy)
                && server.release().is_none_or(|release| release >= READS_UID)
        });
    match loses {
        None => Ok(()),
        Some(server) => Err(Unauthorized::Identity(BadIdentity::UidNotTaken(
            server.name.to_string(),
        ))),
    }
}
