//! Why a request went where it went.

use crate::codes::codes;

codes! {
    /// Stable codes: metric label, access log, `explain`. `docs/routing.md` lists them; a test compares.
    Reason {
        InteroperabilityOff "interoperability_off" "the feature is switched off: everything is answered by the local server",
        HopMarked "hop_marked" "a trusted proxy has forwarded the request already: never twice",
        Probe "probe" "health, metrics, version, logs and profiles are one server's own: the local one answers or nobody",
        NonResource "non_resource" "the path names no resource: the local server answers",
        DiscoveryMerged "discovery_merged" "a server let the request pass; the answer is what all servers serve together",
        OpenApiOnPeer "openapi_on_peer" "another server has the OpenAPI document: with this hash, or the one that describes most",
        OpenApiNewest "openapi_newest" "servers differ: the newest one describes most",
        DiscoveryOnPeer "discovery_on_peer" "the path describes a group or version that only other servers serve",
        LocalServes "local_serves" "the local server serves the resource with this verb",
        PeerServes "peer_serves" "the local server does not serve the resource; another does",
        SubresourceOnPeer "subresource_on_peer" "the local server serves the resource but not this subresource; another does",
        VerbOnPeer "verb_on_peer" "the local server serves the resource but not with this verb; another does",
        QueryOnPeer "query_on_peer" "the server that was asked is too old for an option of the query; a newer one knows it",
        StorageVersion "storage_version" "no server that can be used says that it serves the resource; another one, which cannot be asked, published that it does",
        LocalDown "local_down" "the local server would answer but cannot be used now; another does",
        LocalUnknown "local_unknown" "nothing is known yet of what the local server serves: one known to serve it goes first",
        VerbNowhere "verb_nowhere" "no server serves the resource with this verb: one that serves the resource says so (405)",
        UnknownKey "unknown_key" "no server lists the resource: the local server is asked, its 404 is not believed without a refresh",
        CapableServerUnreachable "capable_server_unreachable" "servers that serve it are known but none can be used now: 503",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::assert_documented;

    #[test]
    fn documentation_lists_every_reason_and_no_other() {
        let codes = Reason::ALL.iter().map(|r| (r.as_str(), r.meaning()));
        assert_documented("routing.md", "Reasons", codes);
    }
}
