//! Label and field selectors.

use serde_json::Value;

use super::{
    query::Query,
    resource::Target,
    status::{self, Failure},
};

/// Both selectors of a list or watch.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    labels: Vec<(String, Term)>,
    fields: Vec<(String, Term)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Term {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selectors {
    pub(super) fn parse(query: &Query) -> Result<Self, Failure> {
        let labels = query.get("labelSelector").unwrap_or_default();
        let fields = query.get("fieldSelector").unwrap_or_default();
        Ok(Self {
            labels: terms(labels)?,
            fields: terms(fields)?,
        })
    }

    /// Refuses fields by which this release cannot select objects of the type.
    pub(super) fn check(&self, target: &Target, minor: u8) -> Result<(), Failure> {
        let path = &target.path;
        for (field, _) in &self.fields {
            let meta = matches!(field.as_str(), "metadata.name" | "metadata.namespace");
            if meta || selectable(&path.group, &path.resource, field, minor) {
                continue;
            }
            return Err(status::bad_request(match path.resource.as_str() {
                _ if target.resource.custom => format!("field label not supported: {field}"),
                "pods" | "nodes" | "namespaces" | "events" | "secrets" => {
                    format!("field label not supported: {field}")
                }
                "resourceslices" => format!(
                    "field label not supported for {}/{}, Kind=ResourceSlice: {field}",
                    path.group, path.version
                ),
                _ => format!(
                    "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                ),
            }));
        }
        Ok(())
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let field = |path: &str| {
            let value = path.split('.').fold(object, |value, key| &value[key]);
            // An absent field is the empty string, as in the field sets that kube-apiserver builds.
            Some(value.as_str().unwrap_or_default())
        };
        self.labels
            .iter()
            .all(|(key, term)| term.matches(label(key)))
            && self
                .fields
                .iter()
                .all(|(path, term)| term.matches(field(path)))
    }
}

impl Term {
    fn matches(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

/// As `conversion.go` of the groups has it (`pkg/apis/core/v1`, `pkg/apis/resource/v1`), as far as tests need it.
fn selectable(group: &str, resource: &str, field: &str, minor: u8) -> bool {
    match (group, resource) {
        ("", "pods") => match field {
            "spec.hostNetwork" => minor >= 28,
            "status.podIPs" | "status.podIP" | "status.phase" | "status.nominatedNodeName" => true,
            "spec.nodeName" | "spec.restartPolicy" | "spec.schedulerName" => true,
            _ => field == "spec.serviceAccountName",
        },
        ("", "nodes") => field == "spec.unschedulable",
        ("", "namespaces") => field == "status.phase",
        ("", "secrets") => field == "type",
        ("", "events") => {
            field.starts_with("involvedObject.") || field == "reason" || field == "type"
        }
        ("resource.k8s.io", "resourceslices") => {
            matches!(field, "spec.nodeName" | "spec.driver")
        }
        _ => false,
    }
}

fn terms(selector: &str) -> Result<Vec<(String, Term)>, Failure> {
    split(selector)
        .into_iter()
        .filter(|term| !term.trim().is_empty())
        .map(|term| parse(term.trim()))
        .collect()
}

/// Splits at commas outside parentheses.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0usize;
    selector
        .split(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .collect()
}

fn parse(term: &str) -> Result<(String, Term), Failure> {
    let own = |key: &str| key.trim().to_owned();
    if let Some((key, set)) = term
        .split_once(" in ")
        .filter(|(key, _)| !key.trim_end().ends_with(" not"))
    {
        return Ok((own(key), Term::In(values(set)?)));
    }
    if let Some((key, set)) = term.split_once(" notin ") {
        return Ok((own(key), Term::NotIn(values(set)?)));
    }
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = term.split_once(operator) {
            let one = vec![own(value)];
            return Ok((
                own(key),
                if equal {
                    Term::In(one)
                } else {
                    Term::NotIn(one)
                },
            ));
        }
    }
    match term.strip_prefix('!') {
        Some(key) => Ok((own(key), Term::Absent)),
        None => Ok((own(term), Term::Exists)),
    }
}

fn values(set: &str) -> Result<Vec<String>, Failure> {
    let inner = set
        .trim()
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    let inner = inner.ok_or_else(|| {
        status::bad_request(format!("unable to parse requirement: found '{set}'"))
    })?;
    Ok(inner
        .split(',')
        .map(|value| value.trim().to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(query: &str) -> bool {
        let object = json!({"metadata": {"name": "x", "labels": {"app": "web", "tier": "front"}}, "status": {"phase": "Running"}});
        Selectors::parse(&Query::parse(query))
            .unwrap()
            .matches(&object)
    }

    #[test]
    fn labels_and_fields() {
        for yes in [
            "labelSelector=app%3Dweb,tier",
            "labelSelector=app in (a,web),tier!=back",
            "labelSelector=!zone",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "labelSelector=app notin (web,b)",
            "labelSelector=zone",
            "fieldSelector=metadata.name!=x",
        ] {
            assert!(!matches(no), "{no}");
        }
        assert!(matches(
            "fieldSelector=metadata.name=x,status.phase==Running"
        ));
        assert!(Selectors::parse(&Query::parse("labelSelector=app in web")).is_err());
    }
}
