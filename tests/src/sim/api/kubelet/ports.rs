//! What listens on a container's ports: it sends back what it gets.

/// What a kubelet says where nothing listens.
pub(super) fn refused(port: u16) -> String {
    format!(
        "error forwarding port {port} to pod: failed to execute portforward in network namespace: failed to connect to localhost:{port} \
         inside namespace: dial tcp4 127.0.0.1:{port}: connect: connection refused"
    )
}
