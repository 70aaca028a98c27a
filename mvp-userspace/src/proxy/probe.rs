//! One server's own health, version and metrics for whoever asks on the admin port.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Limited};

use super::blame::Ending;
use super::body::Upload;
use super::error::AttemptError;
use super::lane::Lane;
use super::pool::Pool;
use crate::discovery::USER_AGENT;
use crate::route::Server;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A kube-apiserver's `/metrics` is a few MiB.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// `GET path` of that very server. `own`: the headers that say who asks, by the configured names: `system:mvp`, in no group but
/// `system:authenticated`. What it may read is what `deploy/rbac.yaml` grants, and no right that a cluster gives to somebody else's
/// group.
pub async fn probe(
    pool: &Arc<Pool>,
    server: &Arc<Server>,
    path: &str,
    own: &HeaderMap,
) -> Result<Response<Bytes>, AttemptError> {
    let ask = async {
        let checkout = pool.checkout(server, Lane::FrontProxy, false).await?;
        let invalid = |error: http::Error| AttemptError::new(Ending::Unsendable, error.to_string());
        let host = crate::discovery::authority(&server.endpoint);
        let uri = match checkout.version() {
            http::Version::HTTP_2 => format!("https://{host}{path}"),
            _ => path.to_owned(),
        };
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(uri)
            .version(checkout.version())
            .body(Upload::Empty.body(None))
            .map_err(invalid)?;
        let headers = request.headers_mut();
        if checkout.version() != http::Version::HTTP_2 {
            headers.insert(
                http::header::HOST,
                HeaderValue::from_str(&host).map_err(|error| invalid(error.into()))?,
            );
        }
        headers.insert(
            http::header::USER_AGENT,
            HeaderValue::from_static(USER_AGENT),
        );
        for (name, value) in own {
            headers.append(name, value.clone());
        }
        let (response, _lease) = checkout.send(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MOST_BYTES)
            .collect()
            .await
            .map_err(|error| AttemptError::new(Ending::AnswerMalformed, error.to_string()))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::time::timeout(TIMEOUT, ask)
        .await
        .unwrap_or(Err(AttemptError::bare(Ending::NoAnswer)))
}
