//! What to answer for a key that nobody lists, once a refresh has not changed that.

use std::sync::Arc;

use super::{Knowledge, RouteTable};

/// What a client is answered that asks for a key which no known set has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UnknownVerdict {
    /// Every server is known well enough: the local 404 is true and may pass.
    NotFound,
    /// 503 with `Retry-After`: this server may serve the key for all we know. A false 404 is the worst answer, since garbage
    /// collection and namespace deletion act on it.
    Unavailable {
        /// The one whose set is in doubt.
        server: Arc<str>,
    },
}

/// A 404 is true only if every member is confirmed, or down with a last known good set. One that never answered counts for
/// `discovery.staleAfter` and no longer: it alone must not turn every unknown type into a 503 for good.
pub fn verdict_unknown(table: &RouteTable) -> UnknownVerdict {
    let doubtful = table
        .members()
        .iter()
        .find(|member| match member.knowledge {
            Knowledge::Confirmed | Knowledge::Down => member.apis.is_none(),
            Knowledge::Never | Knowledge::Unconfirmed => true,
            Knowledge::Absent => false,
        });
    match doubtful {
        Some(member) => UnknownVerdict::Unavailable {
            server: member.server.name.clone(),
        },
        None => UnknownVerdict::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing::{known, member, table};

    #[test]
    fn only_sure_knowledge_lets_a_404_pass() {
        for (knowledge, sure) in [
            (Knowledge::Confirmed, true),
            (Knowledge::Down, true),
            (Knowledge::Unconfirmed, false),
            (Knowledge::Never, false),
            (Knowledge::Absent, true),
        ] {
            let table = table([
                member("a", true, &["v1 pods"]),
                known(member("b", false, &["v1 pods"]), knowledge),
            ]);
            let expected = match sure {
                true => UnknownVerdict::NotFound,
                false => UnknownVerdict::Unavailable { server: "b".into() },
            };
            assert_eq!(verdict_unknown(&table), expected, "{knowledge:?}");
        }
        let mut down = known(member("b", false, &[]), Knowledge::Down);
        down.apis = None;
        let table = table([member("a", true, &[]), down]);
        assert_eq!(
            verdict_unknown(&table),
            UnknownVerdict::Unavailable { server: "b".into() }
        );
    }
}
