//! ClientHellos whole and in pieces, and everything else that arrives at a TLS port.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::tls::provider;
use crate::tls::testing::{self_signed, server};

/// What rustls sends first.
fn hello_bytes(name: Option<&str>, alpn: &[&str]) -> Vec<u8> {
    let mut config = client_config(rustls::RootCertStore::empty());
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config.enable_sni = name.is_some();
    let name = name.unwrap_or("unnamed").to_owned().try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn client_config(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The same message in records of `size` bytes.
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for fragment in hello[RECORD_HEADER..].chunks(size) {
        records.extend([22, 3, 1]);
        records.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
        records.extend(fragment);
    }
    records
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 1];
    record.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    record.extend(body);
    record
}

fn read(bytes: &[u8]) -> Option<ClientHello> {
    match frame(bytes) {
        Frame::Whole(end) => parse(&bytes[..end]),
        _ => None,
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let client = client.unwrap();
    client.set_nodelay(true).unwrap();
    (client, accepted.unwrap().0)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// What is found if a client sends this and closes its side; `None`: that it closed too early.
async fn peeked(bytes: &[u8]) -> Option<Peeked> {
    let (mut client, stream) = pair().await;
    let send = async {
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let ((), found) = tokio::join!(send, peek(stream, later()));
    match found {
        Ok(looked) => Some(looked.found),
        Err(Gone::Closed) => None,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn names_and_protocols() {
    for (name, alpn) in [
        (Some("kubernetes.default.svc"), &["h2", "http/1.1"][..]),
        (Some("localhost"), &[]),
        (None, &["http/1.1"]),
    ] {
        let expected = ClientHello {
            server_name: name.map(str::to_owned),
            alpn: alpn.iter().map(|p| p.as_bytes().to_vec()).collect(),
        };
        let hello = hello_bytes(name, alpn);
        assert_eq!(peeked(&hello).await, Some(Peeked::Hello(expected.clone())));
        for size in [1, 2, 3, 4, 5, 100] {
            let found = peeked(&fragmented(&hello, size)).await;
            assert_eq!(found, Some(Peeked::Hello(expected.clone())), "{size}");
        }
        // What a client may send after it at once (early data) is not looked at.
        let followed = [hello, record(23, &[7; 9000])].concat();
        assert_eq!(peeked(&followed).await, Some(Peeked::Hello(expected)));
    }
    let upper = hello_bytes(Some("KUBERNETES"), &[]);
    assert_eq!(read(&upper).unwrap().server_name.unwrap(), "kubernetes");
    // An address is no name.
    assert_eq!(
        read(&hello_bytes(Some("10.0.0.1"), &[]))
            .unwrap()
            .server_name,
        None
    );
}

#[tokio::test]
async fn what_else_arrives_at_a_port() {
    let hello = hello_bytes(Some("localhost"), &["h2"]);
    let message = |kind: u8, length: u32, body: &[u8]| {
        let [_, length @ ..] = length.to_be_bytes();
        [&[kind][..], &length, body].concat()
    };
    let corpus: &[(&str, Vec<u8>, Option<Peeked>)] = &[
        ("nothing", vec![], None),
        (
            "HTTP/1.1",
            b"GET /healthz HTTP/1.1\r\n\r\n".to_vec(),
            Some(Peeked::NotTls),
        ),
        (
            "HTTP/2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            Some(Peeked::NotTls),
        ),
        (
            "PROXY",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(),
            Some(Peeked::NotTls),
        ),
        ("SSH", b"SSH-2.0-x\r\n".to_vec(), Some(Peeked::NotTls)),
        (
            "SSL 2.0",
            [&[0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10][..], &[1; 37]].concat(),
            Some(Peeked::NotTls),
        ),
        ("an alert", record(21, &[2, 40]), Some(Peeked::NotTls)),
        (
            "application data",
            record(23, &[0; 50]),
            Some(Peeked::NotTls),
        ),
        (
            "a ServerHello",
            record(22, &message(2, 40, &[0; 40])),
            Some(Peeked::NotTls),
        ),
        (
            "SSL 2.0's version in a record",
            vec![22, 2, 0, 0, 10],
            Some(Peeked::NotTls),
        ),
        ("an empty record", record(22, &[]), Some(Peeked::NotTls)),
        (
            "a record too long",
            vec![22, 3, 1, 0x40, 1, 1],
            Some(Peeked::NotTls),
        ),
        (
            "an empty hello",
            record(22, &message(1, 0, &[])),
            Some(Peeked::NotTls),
        ),
        (
            "a hello of zeros",
            record(22, &message(1, 60, &[0; 60])),
            Some(Peeked::NotTls),
        ),
        (
            "hello, then alert in its middle",
            [&record(22, &hello[5..50])[..], &record(21, &[1, 0])].concat(),
            Some(Peeked::NotTls),
        ),
        ("half", hello[..hello.len() / 2].to_vec(), None),
        ("one byte", vec![22], None),
        (
            "announced too long",
            record(22, &message(1, 0xff_ffff, &[0; 10])),
            Some(Peeked::TooLong),
        ),
        (
            "just too long",
            record(22, &message(1, MAX_HELLO as u32 - 8, &[0; 10])),
            Some(Peeked::TooLong),
        ),
        (
            "not quite too long",
            record(22, &message(1, MAX_HELLO as u32 - 9, &[0; 10])),
            None,
        ),
        // Headers of records count, or a hello in bytes would be several times as long.
        (
            "too long in single bytes",
            fragmented(&record(22, &message(1, 4000, &[0; 3900])), 1),
            Some(Peeked::TooLong),
        ),
    ];
    for (what, bytes, expected) in corpus {
        assert_eq!(&peeked(bytes).await, expected, "{what}");
    }
}

/// A real hello of the greatest length there may be.
#[tokio::test]
async fn long_hellos() {
    let protocols: Vec<String> = (0..60).map(|i| format!("{i:0>200}")).collect();
    let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
    let hello = hello_bytes(Some("localhost"), &protocols);
    assert!(hello.len() > 12_000 && hello.len() < MAX_HELLO);
    let Some(Peeked::Hello(found)) = peeked(&hello).await else {
        panic!("not read");
    };
    assert_eq!(found.alpn.len(), 60);
}

#[tokio::test]
async fn a_client_that_never_finishes_is_waited_for_without_spinning() {
    let hello = hello_bytes(Some("localhost"), &[]);
    let (mut client, stream) = pair().await;
    client.write_all(&hello[..10]).await.unwrap();
    let looks = AtomicU32::new(0);
    let waited = tokio::time::timeout(Duration::from_millis(300), look(stream, &looks)).await;
    assert!(waited.is_err());
    let looks = looks.into_inner();
    // Once, and once more if the bytes came just between. Spinning would be thousands.
    assert!((1..=2).contains(&looks), "{looks} looks");

    let (mut client, stream) = pair().await;
    client.write_all(&hello[..10]).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let timed_out = peek(stream, deadline).await.unwrap_err();
    assert!(matches!(timed_out, Gone::TimedOut));
}

/// The kernel waits for the bytes: the agent is woken for the header of the record, and for the whole record.
#[tokio::test]
async fn a_client_that_sends_byte_by_byte_costs_three_looks() {
    let hello = hello_bytes(Some("localhost"), &[]);
    let (mut client, stream) = pair().await;
    let looks = AtomicU32::new(0);
    let send = async {
        for byte in &hello {
            client.write_all(&[*byte]).await.unwrap();
            // Whoever looks may do so between any two bytes.
            tokio::task::yield_now().await;
        }
    };
    let both = async { tokio::join!(send, look(stream, &looks)) };
    let ((), found) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap();
    assert!(matches!(found.unwrap().found, Peeked::Hello(_)));
    let looks = looks.into_inner();
    assert!((1..=3).contains(&looks), "{looks}, {} bytes", hello.len());
}

/// A byte each millisecond on two connections in turn, so that no two bytes of one lie beside each other: soon the kernel has no memory for more
/// segments, and then each byte makes the socket readable.
#[tokio::test]
async fn a_client_of_whose_segments_the_kernel_has_enough_rests() {
    let protocols: Vec<String> = (0..8).map(|i| format!("{i:0>200}")).collect();
    let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
    let hello = hello_bytes(Some("localhost"), &protocols);
    let ((mut client, stream), (mut other, _unread)) = tokio::join!(pair(), pair());
    // Where the kernel gives a socket more from the beginning, it would have enough for longer.
    let socket = socket2::SockRef::from(&stream);
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let looks = AtomicU32::new(0);
    let send = async {
        for byte in &hello {
            client.write_all(&[*byte]).await.unwrap();
            other.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let both = async { tokio::join!(send, look(stream, &looks)) };
    let ((), looked) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap();
    let looked = looked.unwrap();
    assert!(matches!(looked.found, Peeked::Hello(_)));
    assert_eq!(looked.early, hello);
    assert_eq!(looks.into_inner(), LOOKS);
}

/// However many records of a byte follow, there are no more looks: what comes is read.
#[tokio::test]
async fn what_comes_in_records_of_a_byte_is_read() {
    let hello = fragmented(&hello_bytes(Some("localhost"), &[]), 1);
    let (mut client, stream) = pair().await;
    let looks = AtomicU32::new(0);
    let of_record = RECORD_HEADER + 1;
    let (drops, rest) = hello.split_at(LOOKS as usize * of_record);
    let send = async {
        for (record, number) in drops.chunks(of_record).zip(1..) {
            client.write_all(record).await.unwrap();
            while looks.load(Ordering::Relaxed) < number {
                tokio::task::yield_now().await;
            }
        }
        client.write_all(rest).await.unwrap();
        client.write_all(b"behind it").await.unwrap();
        client.shutdown().await.unwrap();
    };
    let both = async { tokio::join!(send, look(stream, &looks)) };
    let ((), looked) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap();
    let Looked {
        mut stream,
        early: mut all,
        found,
    } = looked.unwrap();
    assert!(matches!(found, Peeked::Hello(_)));
    assert_eq!(looks.into_inner(), LOOKS);
    assert_eq!(LOOKS, 16, "as docs/security.md says");
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [&hello[..], b"behind it"].concat());
}

#[tokio::test]
async fn a_reset_is_an_error() {
    let (client, stream) = pair().await;
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    match peek(stream, later()).await {
        Err(Gone::Broken(error)) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
}

/// Whatever the look found, a TLS server reads the connection afterwards as if there had been none.
#[tokio::test]
async fn nothing_is_consumed() {
    let identity = self_signed(server(&["localhost"]));
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let chain = vec![CertificateDer::from(identity.der.to_vec())];
    let acceptor = TlsAcceptor::from(Arc::new(
        rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap(),
    ));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.der.clone()).unwrap();
    let connector = TlsConnector::from(Arc::new(client_config(roots)));
    for pieces in [false, true] {
        let (mut client, stream) = pair().await;
        if pieces {
            // The first look ends in the middle of the hello.
            client.write_all(&[22]).await.unwrap();
        }
        let name = "localhost".try_into().unwrap();
        let client = SkipFirst {
            stream: client,
            skip: pieces,
        };
        let connect = async {
            let mut tls = connector.connect(name, client).await.unwrap();
            tls.write_all(b"hello").await.unwrap();
            tls.flush().await.unwrap();
            tls
        };
        let serve = async {
            let looked = peek(stream, later()).await.unwrap();
            assert!(matches!(looked.found, Peeked::Hello(_)) && looked.early.is_empty());
            let stream = looked.stream;
            let mut tls = acceptor.accept(stream).await.unwrap();
            let mut said = [0; 5];
            tls.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"hello");
        };
        let both = async { tokio::join!(connect, serve) };
        tokio::time::timeout(Duration::from_secs(30), both)
            .await
            .expect("no bytes were lost");
    }
}

/// Leaves out the first byte written, if it was sent already.
struct SkipFirst {
    stream: TcpStream,
    skip: bool,
}

impl AsyncRead for SkipFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SkipFirst {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.skip) {
            return Poll::Ready(Ok(1));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

proptest! {
    #[test]
    fn every_beginning_of_a_hello_asks_for_more(size in 1usize..600, cut in any::<prop::sample::Index>()) {
        let whole = fragmented(&hello_bytes(Some("localhost"), &["h2"]), size);
        let cut = cut.index(whole.len());
        prop_assert!(matches!(frame(&whole[..cut]), Frame::More(wanted) if (cut + 1..=whole.len()).contains(&wanted)));
        prop_assert_eq!(frame(&whole), Frame::Whole(whole.len()));
        prop_assert_eq!(read(&whole).unwrap().server_name.unwrap(), "localhost");
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read(&bytes);
        read(&record(22, &[&[1, 0, 1, 0][..], &bytes].concat()));
    }

    #[test]
    fn any_change_of_a_hello(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut hello = hello_bytes(Some("localhost"), &["h2"]);
        for (at, byte) in changes {
            let at = at.index(hello.len());
            hello[at] = byte;
        }
        let end = cut.map_or(hello.len(), |cut| cut.index(hello.len()));
        if let Frame::Whole(whole) = frame(&hello[..end]) {
            prop_assert!(whole <= end);
        }
        read(&hello[..end]);
    }
}
