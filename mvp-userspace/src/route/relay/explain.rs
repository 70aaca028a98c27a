//! One line that says whether a client's next connection would be relayed, and why.

use std::fmt::Write;
use std::net::IpAddr;

use super::permit::{self, ClientHelloFacts, RelayConditions, RelayDecision, decide};

/// For `mvp explain`: the decision and what every other server lacks.
///
/// `10.0.0.9 asking for kubernetes -> relayed to cp-b, …; cp-b: fits; cp-c: no_superset`
pub fn explain(
    address: IpAddr,
    hello: &ClientHelloFacts<'_>,
    view: &RelayConditions<'_>,
) -> String {
    let mut line = permit::who(address, hello.server_name);
    line += " -> ";
    // Writing to a String cannot fail.
    match decide(hello, view) {
        RelayDecision::Relay { server } => {
            let name = view.table.member(server).map_or("?", |m| &*m.server.name);
            // What its requests are about cannot be seen any more: for who means this server, the two answers differ.
            let _ = write!(
                line,
                "relayed to {name}, which then also answers what it asks about its server (/readyz, /version)"
            );
        }
        RelayDecision::Inspect(reason) => {
            let _ = write!(
                line,
                "inspected ({}: {})",
                reason.as_str(),
                reason.meaning()
            );
        }
    }
    for (index, member) in permit::peers(view.table) {
        let lacks = permit::lacks(index, member, view).map_or("fits", |reason| reason.as_str());
        let _ = write!(line, "; {}: {lacks}", member.server.name);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;

    use super::*;

    #[test]
    fn one_line_with_every_other_server() {
        let world = World::upgrade();
        let say = |name| explain([10, 0, 0, 9].into(), &world.hello(name), &world.view());
        assert_eq!(
            say(Some("kubernetes")),
            "10.0.0.9 asking for kubernetes -> relayed to cp-b, which then also answers what it asks about its server \
             (/readyz, /version); cp-b: fits; cp-c: no_superset"
        );
        assert_eq!(
            say(None),
            "10.0.0.9 naming no server -> inspected (no_server_name: the client names no server in TLS, and \
             relay.withoutServerName is false); cp-b: fits; cp-c: no_superset"
        );
    }
}
