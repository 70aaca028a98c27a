//! What each minor version of kube-apiserver began or ceased to serve, as it is configured by default: for what an upgrade will bring, before
//! any server has it. The project's own table, made from the servers' discovery documents; a test in `tests/tests/sim` holds it to the
//! simulated servers, whose surfaces are held to recorded ones.

/// The minors of `1.x` of which something is known.
pub const KNOWN: std::ops::RangeInclusive<u32> = 31..=36;

/// A type with its version, `group/version resource` or `group/version resource/subresource`, that a minor has or lacks unlike the one before.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Change {
    /// The minor from which on it is so.
    pub minor: u32,
    /// `group/version resource[/subresource]`; the group and its slash are absent for the core group.
    pub name: &'static str,
    /// It is served; otherwise it is no longer.
    pub serves: bool,
}

/// `MINOR +|- GROUP/VERSION RESOURCE`, in the order of minors and then of names.
pub const TABLE: &str = "\
32 - flowcontrol.apiserver.k8s.io/v1beta3 flowschemas
32 - flowcontrol.apiserver.k8s.io/v1beta3 flowschemas/status
32 - flowcontrol.apiserver.k8s.io/v1beta3 prioritylevelconfigurations
32 - flowcontrol.apiserver.k8s.io/v1beta3 prioritylevelconfigurations/status
33 + networking.k8s.io/v1 ipaddresses
33 + networking.k8s.io/v1 servicecidrs
33 + networking.k8s.io/v1 servicecidrs/status
33 + v1 pods/resize
34 + resource.k8s.io/v1 deviceclasses
34 + resource.k8s.io/v1 resourceclaims
34 + resource.k8s.io/v1 resourceclaims/status
34 + resource.k8s.io/v1 resourceclaimtemplates
34 + resource.k8s.io/v1 resourceslices
34 + storage.k8s.io/v1 volumeattributesclasses
36 + admissionregistration.k8s.io/v1 mutatingadmissionpolicies
36 + admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings
";

/// Every change, in the order of the table.
pub fn changes() -> impl Iterator<Item = Change> {
    TABLE.lines().filter_map(|line| {
        let (minor, rest) = line.split_once(' ')?;
        let (sign, name) = rest.split_once(' ')?;
        Some(Change {
            minor: minor.parse().ok()?,
            name,
            serves: sign == "+",
        })
    })
}

/// What a server of minor `to` serves and one of `from` does not, and the other way round. `None`: one of them is not known.
pub fn between(from: u32, to: u32) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
    if !KNOWN.contains(&from) || !KNOWN.contains(&to) || from > to {
        return None;
    }
    let (mut more, mut less): (Vec<&str>, Vec<&str>) = Default::default();
    for change in changes().filter(|change| change.minor > from && change.minor <= to) {
        // What came and went in between is neither.
        let (into, out_of) = match change.serves {
            true => (&mut more, &mut less),
            false => (&mut less, &mut more),
        };
        let before = out_of.len();
        out_of.retain(|name| *name != change.name);
        if out_of.len() == before {
            into.push(change.name);
        }
    }
    Some((more, less))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_and_in_order() {
        let all: Vec<_> = changes().collect();
        assert_eq!(all.len(), TABLE.lines().count());
        assert!(all.len() > 10);
        assert!(all.is_sorted());
        assert!(all.iter().all(|change| KNOWN.contains(&change.minor)));
    }

    #[test]
    fn what_an_upgrade_brings() {
        let (more, less) = between(35, 36).unwrap();
        let policies = "admissionregistration.k8s.io/v1 mutatingadmissionpolicies";
        assert!(more.contains(&policies), "{more:?}");
        assert!(!less.contains(&policies));
        assert_eq!(between(36, 36), Some((Vec::new(), Vec::new())));
        for (from, to) in [(36, 35), (30, 36), (36, 37)] {
            assert_eq!(between(from, to), None);
        }
    }
}
