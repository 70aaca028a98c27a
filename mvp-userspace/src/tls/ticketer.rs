//! Session tickets of bounded size.

use std::sync::Arc;

use rustls::server::ProducesTickets;

/// A ticket holds the client's certificate chain, which the client chooses. TLS allows no ticket of 64 KiB, and one of
/// this size is no saving to anyone.
const MAX_SESSION: usize = 16 << 10;

/// rustls' own ticketer, without tickets for sessions above [`MAX_SESSION`]: those shake hands in full each time.
pub(super) fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    Ok(Arc::new(Bounded(
        rustls::crypto::aws_lc_rs::Ticketer::new()?
    )))
}

#[derive(Debug)]
struct Bounded(Arc<dyn ProducesTickets>);

impl ProducesTickets for Bounded {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        if session.len() > MAX_SESSION {
            None
        } else {
            self.0.encrypt(session)
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(ticket)
    }
}
