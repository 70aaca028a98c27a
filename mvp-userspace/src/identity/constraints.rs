//! Name constraints of a CA (RFC 5280 §4.2.1.10), applied as Go's crypto/x509 does (`verify.go`): to the subject alternative
//! names of what the CA vouches for, not to subjects.

use x509_parser::extensions::{GeneralName, GeneralSubtree, NameConstraints};

use super::facts::Name;

#[derive(Clone, Debug, Default)]
pub(super) struct Constraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

#[derive(Clone, Debug, Default)]
struct Subtrees {
    dns: Vec<String>,
    /// Address and mask.
    ip: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether there is one of this kind at all.
    email: bool,
    uri: bool,
}

impl Constraints {
    /// What was read, and whether that is all; `None` for what Go does not parse.
    pub(super) fn read(constraints: &NameConstraints<'_>) -> Option<(Self, bool)> {
        let mut whole = true;
        let mut read = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
            Subtrees::read(subtrees.as_deref().unwrap_or_default(), &mut whole)
        };
        let permitted = read(&constraints.permitted_subtrees)?;
        let excluded = read(&constraints.excluded_subtrees)?;
        Some((
            Self {
                permitted,
                excluded,
            },
            whole,
        ))
    }

    /// Whether the CA may vouch for this name. A mail address or a URI under a constraint of its kind is not: no certificate of
    /// a Kubernetes client needs one, and refusing is the side to err on.
    pub(super) fn allow(&self, name: &Name) -> bool {
        let (permitted, excluded) = (&self.permitted, &self.excluded);
        match name {
            Name::Dns(name) => {
                let within = |subtrees: &[String]| subtrees.iter().any(|c| dns_within(name, c));
                !within(&excluded.dns) && (permitted.dns.is_empty() || within(&permitted.dns))
            }
            Name::Ip(address) => {
                let within = |subtrees: &[(Vec<u8>, Vec<u8>)]| {
                    subtrees
                        .iter()
                        .any(|(ip, mask)| ip_within(address, ip, mask))
                };
                !within(&excluded.ip) && (permitted.ip.is_empty() || within(&permitted.ip))
            }
            Name::Email => !permitted.email && !excluded.email,
            Name::Uri => !permitted.uri && !excluded.uri,
        }
    }
}

impl Subtrees {
    fn read(subtrees: &[GeneralSubtree<'_>], whole: &mut bool) -> Option<Self> {
        let mut read = Self::default();
        for subtree in subtrees {
            match &subtree.base {
                GeneralName::DNSName(name) => read.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let half = bytes.len() / 2;
                    if !matches!(bytes.len(), 8 | 32) {
                        return None;
                    }
                    let (ip, mask) = bytes.split_at(half);
                    read.ip.push((ip.to_vec(), mask.to_vec()));
                }
                GeneralName::RFC822Name(_) => read.email = true,
                GeneralName::URI(_) => read.uri = true,
                GeneralName::Invalid(..) => return None,
                _ => *whole = false,
            }
        }
        Some(read)
    }
}

/// Go's `matchDomainConstraint`: label by label from the right; a dot in front demands a label more.
fn dns_within(name: &str, constraint: &str) -> bool {
    let (constraint, deeper) = match constraint.strip_prefix('.') {
        Some(rest) => (rest, true),
        None => (constraint, false),
    };
    if constraint.is_empty() {
        return !deeper;
    }
    let mut labels = name.trim_end_matches('.').rsplit('.');
    for wanted in constraint.rsplit('.') {
        if !labels
            .next()
            .is_some_and(|label| label.eq_ignore_ascii_case(wanted))
        {
            return false;
        }
    }
    !deeper || labels.next().is_some()
}

fn ip_within(address: &[u8], ip: &[u8], mask: &[u8]) -> bool {
    address.len() == ip.len()
        && (address.iter().zip(ip).zip(mask)).all(|((a, b), mask)| a & mask == b & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        for (name, constraint, within) in [
            ("a.example.com", "example.com", true),
            ("EXAMPLE.com", "example.COM", true),
            ("example.com", ".example.com", false),
            ("a.example.com", ".example.com", true),
            ("badexample.com", "example.com", false),
            ("example.org", "example.com", false),
            ("com", "example.com", false),
            ("anything", "", true),
        ] {
            assert_eq!(dns_within(name, constraint), within, "{name} {constraint}");
        }
    }

    #[test]
    fn addresses_and_kinds() {
        let constraints = Constraints {
            permitted: Subtrees {
                ip: vec![(vec![10, 0, 0, 0], vec![255, 0, 0, 0])],
                uri: true,
                ..Subtrees::default()
            },
            excluded: Subtrees {
                ip: vec![(vec![10, 1, 0, 0], vec![255, 255, 0, 0])],
                dns: vec!["x.org".to_owned()],
                ..Subtrees::default()
            },
        };
        let ip = |a: [u8; 4]| constraints.allow(&Name::Ip(a.to_vec()));
        assert!(ip([10, 2, 3, 4]) && !ip([10, 1, 3, 4]) && !ip([11, 0, 0, 1]));
        assert!(
            !constraints.allow(&Name::Ip(vec![0; 16])),
            "of the other family"
        );
        assert!(constraints.allow(&Name::Dns("a.com".to_owned())));
        assert!(!constraints.allow(&Name::Dns("a.x.org".to_owned())));
        assert!(constraints.allow(&Name::Email) && !constraints.allow(&Name::Uri));
    }
}
