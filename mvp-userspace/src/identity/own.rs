//! Whether the agent's own certificate is one to assert users with. Everything here can be said without asking a server.

use rustls::pki_types::{CertificateDer, UnixTime};

use super::certificate::Rejection;
use super::subject;
use super::trust::Trust;
use crate::tls::{parse_certificate, validity};

/// Why a certificate must not be used as `upstream.clientCertFile`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnfitClientPair {
    /// A server could not read it either.
    #[error("its first certificate is malformed")]
    Malformed,
    /// The dangerous case: servers would take every asserted user for the certificate's own user.
    #[error(
        "clientCAFile accepts it as the user {0:?}: every user would be served as that one; a front-proxy certificate is signed by \
         requestHeader.clientCAFile alone"
    )]
    IsUser(String),
    /// Servers that are configured like this one would not verify it.
    #[error("it does not lead to requestHeader.clientCAFile: {0}")]
    Chain(Rejection),
    /// Servers verify it as a client certificate (RFC 5280 §4.2.1.12).
    #[error("its extended key usage does not include client authentication")]
    Usage,
    /// Servers that are configured like this one would refuse what it asserts. The text is the name that it has.
    #[error("its common name {0:?} is not among requestHeader.allowedNames")]
    Name(String),
}

impl Trust {
    /// Whether `chain` is fit to assert users with, as far as this trust says. Its own expiry is none of the reasons: such a pair
    /// starts, is refused by the servers, and says so.
    ///
    /// # Errors
    /// Why not.
    pub fn fits_front_proxy(&self, chain: &[CertificateDer<'_>]) -> Result<(), UnfitClientPair> {
        let leaf = chain.first().ok_or(UnfitClientPair::Malformed)?;
        let parsed = parse_certificate(leaf).map_err(|_| UnfitClientPair::Malformed)?;
        let name = subject::read(parsed.subject())
            .ok_or(UnfitClientPair::Malformed)?
            .common_name;
        let at = while_valid(validity(&parsed));
        if let Some(roots) = &self.client_ca
            && roots.verify(chain, at).is_ok()
            && !name.is_empty()
        {
            return Err(UnfitClientPair::IsUser(name));
        }
        let Some(proxy) = &self.front_proxy else {
            return Ok(());
        };
        match proxy.roots.verify(chain, at) {
            Ok(()) => {}
            Err(Rejection::WrongUsage) => return Err(UnfitClientPair::Usage),
            Err(rejection) => return Err(UnfitClientPair::Chain(rejection)),
        }
        if !proxy.allowed_names.is_empty() && !proxy.allowed_names.contains(&name) {
            return Err(UnfitClientPair::Name(name));
        }
        Ok(())
    }
}

/// Now, or the nearest moment at which the certificate is valid.
fn while_valid((not_before, not_after): (i64, i64)) -> UnixTime {
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    let at = now.min(not_after).max(not_before);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(at).unwrap_or(0),
    ))
}
