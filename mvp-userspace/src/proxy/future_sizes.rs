//! What a request's future takes. It is moved into a box of its own when the request comes, and everything that a rare path needs
//! (a TLS handshake, a merged document) would be moved with it if it were not boxed where it begins.

use super::forward::forward;
use super::service::handle;

/// The size of the future that a function with two arguments returns; its type has no name.
fn of2<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

fn of3<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_request_is_small() {
    let sizes = [("handle", of2(handle)), ("forward", of3(forward))];
    println!("{sizes:?}");
    // More than a request's head, the head of its answer and what is known of both is something that belongs into a box.
    assert!(sizes.iter().all(|(_, size)| *size <= 4096), "{sizes:?}");
}
