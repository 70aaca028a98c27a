//! Checks the request that `mvp explain` is asked about: a wrong one is a usage error, and is not sent to the agent.

/// The methods that kube-apiserver gives a meaning to.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// An HTTP method in upper case.
///
/// # Errors
/// The text is no method.
pub(super) fn method(text: &str) -> Result<String, String> {
    if METHODS.contains(&text) {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    Err(match METHODS.contains(&upper.as_str()) {
        true => format!("methods are written in capitals: {upper}"),
        false => format!("no such method: it is one of {}", METHODS.join(", ")),
    })
}

/// A request's path, with its query if there is one.
///
/// # Errors
/// The text does not begin with a slash.
pub(super) fn path(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "a path begins with a slash, such as /api/v1/{text}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request() {
        assert_eq!(method("GET").as_deref(), Ok("GET"));
        assert!(method("get").unwrap_err().contains("GET"));
        for other in ["FOO", "", "list", "CONNECT"] {
            assert!(
                method(other).unwrap_err().contains("no such method"),
                "{other}"
            );
        }
        assert_eq!(
            path("/api/v1/pods?watch=1").as_deref(),
            Ok("/api/v1/pods?watch=1")
        );
        assert!(path("pods").unwrap_err().contains("/api/v1/pods"));
    }
}
