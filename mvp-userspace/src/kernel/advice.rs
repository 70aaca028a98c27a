//! What a refusal of the kernel means, in words that an operator can act on. By what the kernel answered to a try, never by its
//! version; a version is named only as a hint where to look.

use rustix::thread::{CapabilitySet, capabilities};

/// Capabilities without which the kernel refuses what the agent does, by name.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
];

/// Helpers of the BPF programs that not every supported kernel has for their kind of program, with the release that brought them.
const HELPERS: [(&str, &str); 1] = [("bpf_get_netns_cookie", "5.15")];

/// Why this process is not permitted to.
pub(super) fn not_permitted() -> String {
    // Capabilities count in the user namespace of the machine only; this one maps every user to itself.
    let initial = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    not_permitted_for(effective, initial)
}

fn not_permitted_for(effective: CapabilitySet, initial_namespace: bool) -> String {
    let needs =
        "the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON in the initial user namespace";
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(set, _)| !effective.contains(*set))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return format!("{needs}, and lacks {}", missing.join(", "));
    }
    if !initial_namespace {
        return format!("{needs}, and has them in another one: hostUsers must not be false");
    }
    format!(
        "{needs}, and has them: look for a security module (SELinux: class bpf) or a seccomp profile that refuses bpf(2), and \
         before Linux 5.11 at RLIMIT_MEMLOCK"
    )
}

/// What this kernel lacks. `cause` is the kernel's own answer, with the end of the verifier's log.
pub(super) fn not_supported(action: &str, cause: &str, errno: Option<i32>) -> String {
    if let Some(helper) = missing_helper(cause) {
        let of = HELPERS.iter().find(|(name, _)| *name == helper);
        let since = of.map_or_else(String::new, |(_, since)| format!(" (Linux {since} has it)"));
        return format!("this kernel does not have {helper} for this kind of program{since}");
    }
    if errno == Some(libc::ENOSYS) {
        return "bpf(2) is not built: CONFIG_BPF_SYSCALL is missing".to_owned();
    }
    if errno == Some(libc::ENOPROTOOPT) {
        return "this kernel tells no program its network namespace: SO_NETNS_COOKIE and bpf_get_netns_cookie are missing \
                (Linux 5.15 has both)"
            .to_owned();
    }
    if action.contains("BPF maps") {
        return "a kind of map is not built: the programs need sockmap and sockhash (CONFIG_NET_SOCK_MSG or \
                CONFIG_BPF_STREAM_PARSER) and ring buffers (Linux 5.8 has them)"
            .to_owned();
    }
    if action.contains("sk_lookup") {
        return format!(
            "sk_lookup is missing: CONFIG_BPF_SYSCALL with CONFIG_INET; the oldest supported kernel is Linux {}",
            super::OLDEST_KERNEL
        );
    }
    "this kernel does not have what it takes; its own words are in brackets".to_owned()
}

/// The helper's name in the verifier's `unknown func bpf_x#1` or, from Linux 6.13 on, `program of this type cannot use helper
/// bpf_x#1` (`check_helper_call` in kernel/bpf/verifier.c).
fn missing_helper(cause: &str) -> Option<&str> {
    ["unknown func ", "cannot use helper "]
        .iter()
        .find_map(|mark| {
            let (_, rest) = cause.split_once(mark)?;
            rest.split('#')
                .next()
                .filter(|name| name.starts_with("bpf_"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let needed = NEEDED
            .iter()
            .fold(CapabilitySet::empty(), |all, (set, _)| all | *set);
        let few = not_permitted_for(CapabilitySet::NET_ADMIN, true);
        assert!(few.ends_with("and lacks CAP_BPF, CAP_PERFMON"), "{few}");
        let elsewhere = not_permitted_for(needed, false);
        assert!(elsewhere.contains("hostUsers"), "{elsewhere}");
        let other = not_permitted_for(needed, true);
        assert!(
            other.contains("SELinux") && !other.contains("lacks"),
            "{other}"
        );
    }

    #[test]
    fn a_helper_that_the_kernel_lacks_is_named() {
        for log in [
            "... 7: (85) call bpf_get_netns_cookie#122 unknown func bpf_get_netns_cookie#122 processed 7 insns",
            "program of this type cannot use helper bpf_get_netns_cookie#122 processed 7 insns",
        ] {
            let needs = not_supported("the sk_msg program", log, Some(libc::EINVAL));
            assert!(
                needs.contains("bpf_get_netns_cookie") && needs.contains("5.15"),
                "{needs}"
            );
        }
        let needs = not_supported("loading", "unknown func bpf_loop#181", None);
        assert!(
            needs.contains("bpf_loop") && !needs.contains("Linux"),
            "{needs}"
        );
    }

    #[test]
    fn what_is_not_built_is_told_by_the_answer() {
        let of = |action, errno| not_supported(action, "Invalid argument", Some(errno));
        assert!(of("a sk_lookup program", libc::ENOSYS).contains("CONFIG_BPF_SYSCALL"));
        assert!(of("a sk_lookup program", libc::EINVAL).contains("5.10"));
        assert!(of("creating the BPF maps", libc::EINVAL).contains("CONFIG_NET_SOCK_MSG"));
        assert!(of("reading a cookie", libc::ENOPROTOOPT).contains("bpf_get_netns_cookie"));
    }
}
