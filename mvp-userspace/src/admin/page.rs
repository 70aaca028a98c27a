//! The page for browsers: one document without any other file, and a policy that lets it run its own script and nothing else.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest, Sha256};

use crate::history::Report;

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/page.js");

static PAGE: LazyLock<Bytes> = LazyLock::new(|| {
    let page = FRAME.replace("{{style}}", STYLE);
    page.replace("{{script}}", SCRIPT).into()
});
/// The style and the script are named by their digests, so that nothing that came from elsewhere can run, even if it became markup.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; {CLOSED}",
        digest(SCRIPT),
        digest(STYLE)
    )
});
static REPORT_POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src '{}'; {CLOSED}",
        digest(STYLE)
    )
});
const CLOSED: &str = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The live page.
pub(super) fn page() -> Response<Full<Bytes>> {
    document(PAGE.clone(), &POLICY)
}

/// A report, to be kept.
pub(super) fn report(report: &Report) -> Response<Full<Bytes>> {
    document(report.html().into(), &REPORT_POLICY)
}

fn document(body: Bytes, policy: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// As `script-src` and `style-src` name what stands in the document (CSP Level 3, §2.3.1).
fn digest(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        String::from_utf8(PAGE.to_vec()).unwrap()
    }

    #[test]
    fn the_page_needs_nothing_else_and_parses_no_markup() {
        let page = text();
        assert!(!page.contains("{{"));
        // Only the name of a namespace looks like an address.
        let without = page.replace("http://www.w3.org/2000/svg", "");
        for elsewhere in ["http:", "https:", "src=", "url(", "@import", "import("] {
            assert!(!without.contains(elsewhere), "{elsewhere}");
        }
        for parser in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "DOMParser",
            " onclick=",
        ] {
            assert!(!page.contains(parser), "{parser}");
        }
        // A style attribute would need a hole in the policy.
        assert!(!page.contains("style=\""));
    }

    #[test]
    fn the_policy_names_what_stands_between_the_tags() {
        let page = text();
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let content = page.split(&format!("<{tag}>")).nth(1).unwrap();
            let content = content.split(&format!("</{tag}>")).next().unwrap();
            let expected = format!("{directive} '{}'", digest(content));
            assert!(POLICY.contains(&expected), "{expected}");
        }
        assert!(!POLICY.contains("unsafe"));
        let report = Report::default().html();
        let style = report.split("<style>").nth(1).unwrap();
        let style = style.split("</style>").next().unwrap();
        assert!(REPORT_POLICY.contains(&digest(style)));
    }
}
