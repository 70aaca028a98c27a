//! What a client says on one stream: the head of a request, and its trailers (RFC 9113 §8.1, §8.3.1).

use http::uri::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use super::{Asked, Goodbye, Incoming, Server};
use crate::h2wire::block::Block;
use crate::h2wire::frame::code;
use crate::h2wire::hpack::{BlockError, Control, Decoded, content_length};
use crate::h2wire::receive::{Ends, Step, malformed, received, reject};
use crate::h2wire::stream::{Fault, Stream};
use crate::h2wire::target::{REFUSED, Refusal};

/// So many times of what is kept may come, and is left out of a request that is refused; behind that the connection ends. As with the h2
/// crate.
const BOMB: usize = 4;

/// Why a stream is reset, and the code for the client.
type Wrong = (u32, &'static str);

pub(super) fn whole(server: &mut Server, block: &Block, bytes: &[u8]) -> Step {
    let most = server.limits.header_list as usize;
    // Also what nobody wants any more: the tables of both ends have to stay equal.
    let decoded = server
        .decoder
        .decode(bytes, most, most.saturating_mul(BOMB))
        .map_err(|error| {
            tracing::debug!(%error, "a block of fields");
            match error {
                BlockError::Bomb => Ends(
                    code::ENHANCE_YOUR_CALM,
                    Fault::OwnLimit("fields that are far above the limit"),
                ),
                _ => malformed(code::COMPRESSION_ERROR, "a block of fields that is none"),
            }
        })?;
    match block.stream > server.last {
        true => begin(server, block, decoded),
        false => trailers(server, block, decoded),
    }
}

fn begin(server: &mut Server, block: &Block, decoded: Decoded) -> Step {
    let id = block.stream;
    server.last = id;
    if matches!(server.side.goodbye, Goodbye::Final(_)) {
        return Ok(());
    }
    if server.active >= server.limits.streams {
        server.refuse(id, code::REFUSED_STREAM);
        return Ok(());
    }
    match request(decoded, block.ends_stream) {
        Ok((head, left)) => {
            let window = i64::from(server.limits.stream_window);
            let mut stream = Stream::new(server.first_window, window, Asked::default());
            stream.received = block.ends_stream;
            stream.let_go = block.ends_stream;
            stream.left = left;
            server.streams.insert(id, stream);
            server.active += 1;
            server.side.requests.push_back(Incoming {
                stream: id,
                head,
                ends: block.ends_stream,
            });
        }
        Err((code, why)) => {
            tracing::debug!(stream = id, why, "a malformed request");
            server.refuse(id, code);
        }
    }
    Ok(())
}

fn trailers(server: &mut Server, block: &Block, decoded: Decoded) -> Step {
    let id = block.stream;
    let Some(stream) = server.streams.get_mut(&id) else {
        return match server.is_late(id) {
            true => Ok(()),
            // §5.1, and §5.1.1 for one that was left out.
            false => Err(malformed(
                code::STREAM_CLOSED,
                "HEADERS on a stream that is closed",
            )),
        };
    };
    if stream.fault.is_some() {
        <super::Answering as super::Side>::closed(server, id);
        return Ok(());
    }
    let wrong = if stream.received {
        Some((code::STREAM_CLOSED, "HEADERS behind the end"))
    } else if let Some(why) = decoded.malformed {
        Some((code::PROTOCOL_ERROR, why))
    } else if decoded.control.is_of_request() || decoded.control.status.is_some() {
        Some((code::PROTOCOL_ERROR, "a second head"))
    } else if decoded.too_large {
        Some((code::PROTOCOL_ERROR, "more trailers than the agent takes"))
    } else if !block.ends_stream {
        Some((code::PROTOCOL_ERROR, "trailers that do not end the request"))
    } else {
        None
    };
    match wrong {
        Some((code, why)) => reject(server, id, code, why),
        None => {
            if !stream.let_go {
                stream.trailers = Some(decoded.fields);
            }
            received(server, id);
        }
    }
    Ok(())
}

/// The head of a request, and how many bytes its body has, if it says so.
fn request(decoded: Decoded, ends: bool) -> Result<(Request<()>, Option<u64>), Wrong> {
    let wrong = |why| (code::PROTOCOL_ERROR, why);
    let Decoded {
        control,
        mut fields,
        malformed,
        too_large,
    } = decoded;
    if let Some(why) = malformed {
        return Err(wrong(why));
    }
    if control.status.is_some() {
        return Err(wrong("a pseudo-header field of answers"));
    }
    let (mut control, mut left) = (control, None);
    if too_large {
        refuse(&mut control, &mut fields);
    } else {
        left = content_length(&fields).map_err(|()| wrong("a Content-Length that is none"))?;
        if ends && left.is_some_and(|left| left > 0) {
            return Err(wrong("less than Content-Length says"));
        }
    }
    if let Some(refusal) = control.refusal {
        fields.insert(REFUSED, HeaderValue::from_static(refusal.text()));
    }
    let method = control.method.take().ok_or(wrong("no :method"))?;
    let uri = target(&method, control).map_err(wrong)?;
    let mut head = Request::new(());
    *head.method_mut() = method;
    *head.uri_mut() = uri;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = fields;
    Ok((head, left.filter(|_| !ends)))
}

/// A request of which not all fields were kept is answered without looking at them.
fn refuse(control: &mut Control, fields: &mut HeaderMap) {
    fields.clear();
    control.refusal = Some(Refusal::HeaderBytes);
    control.method.get_or_insert(Method::GET);
    if control.method != Some(Method::CONNECT) {
        let scheme = http::uri::Scheme::HTTPS;
        control.scheme.get_or_insert(scheme);
        let path = http::uri::PathAndQuery::from_static("/");
        control.path.get_or_insert(path);
    }
}

/// §8.3.1, and §8.5 for CONNECT.
fn target(method: &Method, control: Control) -> Result<Uri, &'static str> {
    let Control {
        scheme,
        authority,
        path,
        ..
    } = control;
    let mut parts = Parts::default();
    if method == Method::CONNECT {
        if scheme.is_some() || path.is_some() {
            return Err("CONNECT with :scheme or :path");
        }
        parts.authority = Some(authority.ok_or("CONNECT without :authority")?);
    } else {
        let scheme = scheme.ok_or("no :scheme")?;
        // `http::Uri` has no scheme without an authority; Kubernetes' clients always send one.
        parts.scheme = authority.is_some().then_some(scheme);
        parts.authority = authority;
        parts.path_and_query = Some(path.ok_or("no :path")?);
    }
    Uri::from_parts(parts).map_err(|_| "no target of a request")
}
