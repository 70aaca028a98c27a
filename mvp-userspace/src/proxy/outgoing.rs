//! A request on its way to a server. What is sent over a connection to a server is an [`UpstreamRequest`], and one can be made in two
//! ways only: from what [`crate::identity::admit()`] let through the door, and from the agent's own user.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Uri, Version};

use super::blame::Ending;
use super::body::{Upload, UploadBody};
use super::error::AttemptError;
use super::headers::upstream_target;
use super::one_view::{Preferred, Validators};
use super::rides::Rides;
use crate::discovery::USER_AGENT;
use crate::identity::proof::OwnUser;
use crate::identity::{Admitted, PEER_PROXIED};
use crate::net::OpenCount;
use crate::route::Server;

/// A client's request as it leaves, whichever server gets it.
pub struct Outgoing<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    /// Who asks, and the headers that say so.
    pub admitted: &'a Admitted<'a>,
    pub upload: &'a Upload,
    /// Where the caller is.
    pub client: IpAddr,
    /// What its client's connection shares with a stranger's other requests.
    pub rides: &'a Rides,
    /// The protocol an HTTP/1.1 client wants to switch to.
    pub upgrade: Option<&'a HeaderValue>,
    /// What to ask each server with instead of the client's `If-None-Match`.
    pub validators: Option<&'a Validators>,
    /// Asked before what routing decides, if any can be.
    pub preferred: Option<&'a Preferred>,
}

/// A request as one server gets it.
#[derive(Debug)]
pub struct UpstreamRequest(Request<UploadBody>);

impl UpstreamRequest {
    /// A client's request for this server.
    ///
    /// # Errors
    /// Its target cannot be written.
    pub fn new(
        outgoing: &Outgoing<'_>,
        server: &Arc<Server>,
        version: Version,
        upload: Option<Arc<OpenCount>>,
    ) -> Result<Self, AttemptError> {
        let mut headers = outgoing.admitted.headers().clone();
        if let Some(validators) = outgoing.validators {
            validators.apply(server, &mut headers);
        }
        // Set, never appended to: a peer reads the first value only. The caller's own mark is passed on to whichever server is asked.
        if !server.local || outgoing.admitted.is_hop_marked() {
            headers.insert(PEER_PROXIED, HeaderValue::from_static("true"));
        }
        let uri = upstream_target(outgoing.uri, &mut headers, version, &server.endpoint)
            .map_err(unsendable)?;
        let mut request = Request::new(outgoing.upload.body(upload));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = version;
        *request.headers_mut() = headers;
        Ok(Self(request))
    }

    /// `GET path` of this server by the agent itself.
    ///
    /// # Errors
    /// The path is none.
    pub fn of_agent(
        own: &OwnUser,
        server: &Server,
        path: &str,
        version: Version,
    ) -> Result<Self, AttemptError> {
        let mut headers = http::HeaderMap::clone(&own.headers());
        headers.insert(
            http::header::USER_AGENT,
            HeaderValue::from_static(USER_AGENT),
        );
        let path: Uri = path
            .parse()
            .map_err(|error| unsendable(http::Error::from(error)))?;
        let uri =
            upstream_target(&path, &mut headers, version, &server.endpoint).map_err(unsendable)?;
        let mut request = Request::new(Upload::Empty.body(None));
        *request.uri_mut() = uri;
        *request.version_mut() = version;
        *request.headers_mut() = headers;
        Ok(Self(request))
    }

    /// For the HTTP library that writes it.
    pub fn into_http(self) -> Request<UploadBody> {
        self.0
    }
}

fn unsendable(error: http::Error) -> AttemptError {
    AttemptError::new(Ending::Unsendable, error.to_string())
}
