//! One server's own health, version and metrics for whoever asks on the admin port.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Limited};

use super::blame::Ending;
use super::error::AttemptError;
use super::lane::Lane;
use super::outgoing::UpstreamRequest;
use super::pool::Pool;
use crate::identity::proof::OwnUser;
use crate::route::Server;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A kube-apiserver's `/metrics` is a few MiB.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// `GET path` of that very server. `own` is who asks: `system:mvp`, in no group but
/// `system:authenticated`. What it may read is what `deploy/rbac.yaml` grants, and no right that a cluster gives to somebody else's
/// group.
pub async fn probe(
    pool: &Arc<Pool>,
    server: &Arc<Server>,
    path: &str,
    own: &OwnUser,
) -> Result<Response<Bytes>, AttemptError> {
    let ask = async {
        let checkout = pool.checkout(server, Lane::FrontProxy, false).await?;
        let request = UpstreamRequest::of_agent(own, server, path, checkout.version())?;
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
