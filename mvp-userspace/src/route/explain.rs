//! One line that says where a request goes and why.

use std::fmt::Write;

use super::{Knowledge, Member, Plan, RouteTable};
use crate::api::Key;
use crate::request::{PathClass, RequestInfo, classify};
use crate::tls::IdentityClass;

/// For `mvp explain`: who is asked first, the reason, and what every server can do with the request.
///
/// `list apps/v1 deployments -> local server cp-a (local_serves: …); cp-a: serves get,list; cp-b: no such resource`
pub fn explain(plan: &Plan<'_>) -> String {
    let (info, table) = (plan.info(), plan.table());
    let mut line = match info.is_resource {
        true => format!("{} {}", info.verb.as_str(), info.key())
            .trim_start()
            .to_owned(),
        false => info.path.clone().into_owned(),
    };
    line += " -> ";
    let first = plan.first();
    let names: Vec<_> = first
        .iter()
        .filter_map(|index| table.member(index))
        .map(|member| &*member.server.name)
        .collect();
    line += match names.is_empty() {
        true => "503",
        false if first == table.local_set() => "local server ",
        false => "",
    };
    line += &names.join(" or ");
    if plan.is_unknown() && !names.is_empty() {
        line += ", then a refresh if it says 404";
    }
    let reason = plan.reason();
    // Writing to a String cannot fail.
    let _ = write!(line, " ({}: {})", reason.as_str(), reason.meaning());
    for (index, member) in table.members().iter().enumerate() {
        let _ = write!(
            line,
            "; {}: {}{}",
            member.server.name,
            capability(info, table, index, member),
            doubts(member)
        );
    }
    line
}

fn capability(info: &RequestInfo<'_>, table: &RouteTable, index: usize, member: &Member) -> String {
    if info.is_resource && table.published(info.key()).contains(index) {
        return "published that it serves it (StorageVersion)".into();
    }
    if member.is_unknown() {
        return "nothing known yet".into();
    }
    if !info.is_resource {
        return match classify(&info.path) {
            PathClass::Discovery { group, version } | PathClass::OpenApi { group, version }
                if (group, version) != ("", "") =>
            {
                match table.serves_group_version(group, version).contains(index) {
                    true => "serves it".into(),
                    false => "no such group or version".into(),
                }
            }
            _ => "answers for itself".into(),
        };
    }
    let key = info.key();
    let served = |key| {
        table
            .lookup(key)
            .filter(|entry| entry.servers().contains(index))
    };
    if let Some(entry) = served(key) {
        let verbs: Vec<_> = entry
            .verbs(index)
            .iter()
            .map(|verb| verb.as_str())
            .collect();
        return match verbs.is_empty() {
            true => "serves it without verbs".into(),
            false => format!("serves {}", verbs.join(",")),
        };
    }
    let parent = Key {
        subresource: "",
        ..key
    };
    match served(parent) {
        Some(_) => "no such subresource".into(),
        None => "no such resource".into(),
    }
}

fn doubts(member: &Member) -> String {
    let mut doubts = Vec::new();
    match member.knowledge {
        Knowledge::Down => doubts.push("nothing listens, last known"),
        Knowledge::Unconfirmed => doubts.push("unconfirmed"),
        Knowledge::Never | Knowledge::Absent | Knowledge::Confirmed => {}
    }
    for (class, whom) in [
        (IdentityClass::FrontProxy, "not proved for asserted users"),
        (IdentityClass::Bare, "not proved for tokens"),
    ] {
        if !member.server.proved(class) {
            doubts.push(whom);
        }
    }
    if !member.server.available() {
        doubts.push(member.server.health().state.as_str());
    }
    match doubts.is_empty() {
        true => String::new(),
        false => format!(" [{}]", doubts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing::{CONTEXT, get, known, member, table};
    use crate::route::{Failure, plan};

    #[test]
    fn one_line_with_every_server() {
        let table = table([
            member("cp-a", true, &["v1 pods get,list", "v1 pods/log get"]),
            member(
                "cp-b",
                false,
                &["v1 pods get,list", "v1 pods/resize get,patch"],
            ),
            known(member("cp-c", false, &[]), Knowledge::Never),
        ]);
        let say = |target: &str| explain(&plan(&get(target), &table, CONTEXT));
        assert_eq!(
            say("/api/v1/pods"),
            "list v1 pods -> local server cp-a (local_serves: the local server serves the resource with this verb); \
             cp-a: serves get,list; cp-b: serves get,list; cp-c: nothing known yet"
        );
        let resize = say("/api/v1/namespaces/n/pods/p/resize");
        assert!(resize.starts_with("get v1 pods/resize -> cp-b (subresource_on_peer: "));
        assert!(resize.contains("; cp-a: no such subresource; cp-b: serves get,patch; "));
        let missing = say("/apis/x/v1/ys");
        assert!(
            missing.contains("(unknown_key: ") && missing.contains("; cp-b: no such resource;")
        );
        table.members()[1].server.failed(Failure::Refused);
        let down = say("/api/v1/namespaces/n/pods/p/resize");
        assert!(
            down.contains(" -> 503 (capable_server_unreachable: "),
            "{down}"
        );
        assert!(
            down.contains("; cp-b: serves get,patch [ejected]; "),
            "{down}"
        );
        assert!(say("/api/v1").contains("; cp-a: serves it; cp-b: serves it [ejected]; "));
        assert!(say("/apis/x/v1").contains("; cp-a: no such group or version; "));
        assert!(say("/healthz").starts_with("/healthz -> local server cp-a (probe: "));
    }

    #[test]
    fn another_server_is_asked_for_an_unknown_key_while_the_local_one_is_down() {
        let table = table([
            member("cp-a", true, &["v1 pods"]),
            member("cp-b", false, &["v1 pods"]),
        ]);
        let say = |target: &str| explain(&plan(&get(target), &table, CONTEXT));
        let unknown = "/apis/x/v1/ys";
        assert!(say(unknown).starts_with(
            "list x/v1 ys -> local server cp-a, then a refresh if it says 404 (unknown_key: "
        ));
        table.members()[0].server.failed(Failure::Refused);
        let line = say(unknown);
        assert!(
            line.starts_with("list x/v1 ys -> cp-b, then a refresh if it says 404 (unknown_key: "),
            "{line}"
        );
    }
}
