//! Requests to the kernel as bytes, and its answers from bytes. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::constants::{AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};

/// Where `struct tcp_info` (`include/uapi/linux/tcp.h`, only ever extended at its end) has what is read here. Ages are in
/// milliseconds, the round trip in microseconds.
const RETRANSMITS: usize = 2;
const LOST: usize = 32;
const LAST_DATA_SENT: usize = 44;
const LAST_DATA_RECEIVED: usize = 52;
const LAST_ACKNOWLEDGEMENT_RECEIVED: usize = 56;
/// Counts of 64 bits, since Linux 4.1.
const BYTES_ACKNOWLEDGED: usize = 120;
const BYTES_RECEIVED: usize = 128;
/// Since Linux 4.6, as is [`MIN_ROUND_TRIP`].
const NOT_SENT: usize = 144;
const MIN_ROUND_TRIP: usize = 148;
/// Linux acknowledges within so long (`TCP_DELACK_MAX` in `include/net/tcp.h`), others within 500 ms (RFC 9293 section 3.8.6.3).
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(200);
/// The kernel's ages are as coarse as its ticks, at most 10 ms.
const TICK: Duration = Duration::from_millis(10);
const HEADER: usize = 16;

/// An established connection as the kernel has it. Its identity holds a cookie, so that a later connection of the same addresses
/// is not taken for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Established {
    id: SocketId,
    family: u8,
    /// Since data was last sent, or the connection was made.
    last_sent: Duration,
    last_received: Duration,
    /// Since the other side last acknowledged something, with data or without.
    last_acknowledged: Duration,
    /// Bytes received that the application has not read.
    unread: u32,
    /// Bytes that the application wrote and the other side has not acknowledged.
    unacknowledged: u32,
    /// Bytes received so far, and bytes written so far.
    received: u64,
    written: u64,
    /// Some of those have not been sent, or were lost and have to be sent again.
    stuck: bool,
    /// The shortest that was ever measured.
    round_trip: Duration,
    inode: u32,
}

/// One message of the kernel, with the number of the request that it answers.
#[derive(Debug)]
pub(super) enum Reply {
    Established {
        sequence: u32,
        connection: Box<Established>,
        /// It is the only one.
        last: bool,
    },
    /// The end of a dump, or a request carried out.
    Done {
        sequence: u32,
    },
    Failed {
        sequence: u32,
        errno: i32,
    },
    /// A connection without what was asked for, or something else that is not for us.
    Other {
        sequence: u32,
    },
}

impl Established {
    /// The address and port on this host; an IPv4 address also where the socket is of IPv6.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.id.source_address.to_canonical(), self.id.source_port)
    }

    /// The inode of the socket, as in `/proc/PID/fd`; 0: no process has accepted the connection yet.
    pub fn inode(&self) -> u32 {
        self.inode
    }

    /// The address and port of the other side, likewise.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(
            self.id.destination_address.to_canonical(),
            self.id.destination_port,
        )
    }

    /// Since data was last sent or received; acknowledgements and keep-alives do not count.
    pub fn silent_for(&self) -> Duration {
        self.last_sent.min(self.last_received)
    }

    /// The server sent after it last received, or in the same tick of the kernel's clock: an answer follows its request, so that every
    /// request seen so far may have been answered.
    pub fn server_spoke_last(&self) -> bool {
        self.last_sent <= self.last_received
    }

    /// The client may have asked again in the tick in which the server last sent.
    ///
    /// A request and its quick answer share a tick of up to 10 ms, and so do an answer and the client's next request. The second have no
    /// acknowledgement after them: the client had nothing to acknowledge yet. The first have one, at the latest
    /// 200 ms later. It may come within the tick too, so that a connection that has been silent for `silence` is not suspected.
    pub fn may_be_asked_since(&self, silence: Duration) -> bool {
        let quiet = self.silent_for();
        self.last_sent == self.last_received
            && self.last_acknowledged >= self.last_received
            && quiet >= ACKNOWLEDGED_WITHIN
            && quiet < silence
    }

    /// The client's last bytes and the server's last came in one tick, and it is not known which were first: what the client acknowledged
    /// it may have acknowledged with another request.
    pub fn may_end_with_a_request(&self) -> bool {
        self.last_sent == self.last_received
            && self.last_acknowledged >= self.last_received
            && self.unacknowledged == 0
    }

    /// Bytes may be on their way: received and not read, not sent yet or to be sent again, or sent so lately that they may not
    /// have arrived. That they are acknowledged is not asked for: a client that is about to ask again acknowledges an answer
    /// with its next request (delayed acknowledgement, RFC 9293 section 3.8.6.3).
    pub fn is_in_flight(&self) -> bool {
        let arrival = self.round_trip.saturating_mul(2) + TICK;
        let sent_lately = self.unacknowledged != 0 && self.last_sent < arrival;
        self.is_queued() || sent_lately
    }

    /// Bytes were received and not read, or are not sent yet or to be sent again.
    pub fn is_queued(&self) -> bool {
        self.unread != 0 || self.stuck
    }

    /// Bytes that the server has received on this connection so far.
    pub fn bytes_received(&self) -> u64 {
        self.received
    }

    /// Bytes that the server has written to this connection so far.
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// The kernel's number for this connection, which it never gives again.
    pub fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.id.cookie)
    }

    /// Silent in both directions for `silence`, with nothing on its way.
    pub fn is_silent(&self, silence: Duration) -> bool {
        !self.is_in_flight() && self.silent_for() >= silence
    }

    fn new(response: &InetResponse) -> Option<Self> {
        let header = &response.header;
        let info = response.nlas.iter().find_map(|nla| match nla {
            Nla::TcpInfo(info) => Some(info),
            _ => None,
        })?;
        let number = |at: usize| {
            let bytes = info.get(at..)?.first_chunk()?;
            Some(u32::from_ne_bytes(*bytes))
        };
        let count = |at: usize| {
            let bytes = info.get(at..)?.first_chunk()?;
            Some(u64::from_ne_bytes(*bytes))
        };
        let millis = |at: usize| Some(Duration::from_millis(number(at)?.into()));
        let lost = number(LOST)? != 0 || *info.get(RETRANSMITS)? != 0;
        Some(Self {
            id: header.socket_id.clone(),
            family: header.family,
            last_sent: millis(LAST_DATA_SENT)?,
            last_received: millis(LAST_DATA_RECEIVED)?,
            last_acknowledged: millis(LAST_ACKNOWLEDGEMENT_RECEIVED)?,
            inode: header.inode,
            received: count(BYTES_RECEIVED)?,
            written: count(BYTES_ACKNOWLEDGED)?.saturating_add(header.send_queue.into()),
            unread: header.recv_queue,
            unacknowledged: header.send_queue,
            stuck: lost || number(NOT_SENT).unwrap_or(0) != 0,
            // Not measured yet: all bits are set. A kernel that does not report it is treated alike.
            round_trip: match number(MIN_ROUND_TRIP) {
                None | Some(u32::MAX) => Duration::from_secs(1),
                Some(micros) => Duration::from_micros(micros.into()),
            },
        })
    }

    #[cfg(test)]
    fn example(port: u16, silent_for: Duration) -> Self {
        Self {
            id: SocketId {
                source_port: 6443,
                destination_port: port,
                ..SocketId::new_v4()
            },
            family: netlink_packet_sock_diag::constants::AF_INET,
            last_sent: silent_for,
            last_received: silent_for + Duration::from_secs(1),
            last_acknowledged: silent_for,
            received: 0,
            written: 0,
            unread: 0,
            unacknowledged: 0,
            stuck: false,
            round_trip: Duration::from_micros(500),
            inode: 0,
        }
    }
}

impl Reply {
    pub(super) fn sequence(&self) -> u32 {
        match self {
            Reply::Established { sequence, .. }
            | Reply::Done { sequence }
            | Reply::Failed { sequence, .. }
            | Reply::Other { sequence } => *sequence,
        }
    }
}

/// All established connections of one family with this local port.
pub(super) fn dump(family: u8, port: u16, sequence: u32) -> Vec<u8> {
    let any = match family {
        AF_INET6 => SocketId::new_v6(),
        _ => SocketId::new_v4(),
    };
    let id = SocketId {
        source_port: port,
        ..any
    };
    message(
        SockDiagMessage::InetRequest(request(family, id)),
        NLM_F_DUMP,
        sequence,
    )
}

/// This one connection.
pub(super) fn exact(connection: &Established, sequence: u32) -> Vec<u8> {
    let request = request(connection.family, connection.id.clone());
    message(SockDiagMessage::InetRequest(request), 0, sequence)
}

/// The end of this one connection.
pub(super) fn destroy(connection: &Established, sequence: u32) -> Vec<u8> {
    let request = request(connection.family, connection.id.clone());
    let destroy = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
    message(destroy, NLM_F_ACK, sequence)
}

/// The messages of one datagram.
///
/// # Errors
/// The first one that is not understood; nothing after it can be.
pub(super) fn replies(mut datagram: &[u8]) -> Result<Vec<Reply>, String> {
    let mut replies = Vec::new();
    while !datagram.is_empty() {
        // Checked here: the library takes a message's word for its length.
        let length = datagram
            .first_chunk()
            .map(|b| u32::from_ne_bytes(*b) as usize);
        let Some(bytes) = length
            .filter(|length| *length >= HEADER)
            .and_then(|length| datagram.get(..length))
        else {
            return Err("a message longer or shorter than it can be".to_owned());
        };
        replies.push(reply(bytes)?);
        // Messages begin at multiples of four.
        let next = bytes.len().next_multiple_of(4);
        datagram = datagram.get(next..).unwrap_or_default();
    }
    Ok(replies)
}

fn reply(bytes: &[u8]) -> Result<Reply, String> {
    let message =
        NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(|error| error.to_string())?;
    let sequence = message.header.sequence_number;
    Ok(match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
            match Established::new(&response) {
                Some(connection) => Reply::Established {
                    sequence,
                    connection: Box::new(connection),
                    last: message.header.flags & NLM_F_MULTIPART == 0,
                },
                None => Reply::Other { sequence },
            }
        }
        NetlinkPayload::Done(_) => Reply::Done { sequence },
        NetlinkPayload::Error(error) => match error.code {
            None => Reply::Done { sequence },
            Some(code) => Reply::Failed {
                sequence,
                errno: code.get().saturating_neg(),
            },
        },
        _ => Reply::Other { sequence },
    })
}

fn request(family: u8, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::ESTABLISHED,
        socket_id,
    }
}

fn message<T>(payload: T, flags: u16, sequence: u32) -> Vec<u8>
where
    T: NetlinkSerializable + Into<NetlinkPayload<T>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, payload.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use netlink_packet_sock_diag::constants::AF_INET;
    use proptest::prelude::*;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    #[test]
    fn requests_are_as_the_kernel_wants_them() {
        let dump = dump(AF_INET6, 6443, 7);
        // nlmsghdr, then inet_diag_req_v2 (`include/uapi/linux/inet_diag.h`).
        assert_eq!(dump.len(), 16 + 56);
        assert_eq!(dump[0..4], 72u32.to_ne_bytes());
        assert_eq!(dump[4..6], 20u16.to_ne_bytes());
        assert_eq!(dump[6..8], (1u16 | 0x300).to_ne_bytes());
        assert_eq!(dump[8..12], 7u32.to_ne_bytes());
        assert_eq!(dump[16..20], [10, 6, 2, 0]);
        assert_eq!(dump[20..24], 2u32.to_ne_bytes());
        assert_eq!(dump[24..28], [0x19, 0x2b, 0, 0]);
        let destroy = destroy(&Established::example(9, Duration::ZERO), 8);
        assert_eq!(destroy[4..6], 21u16.to_ne_bytes());
        assert_eq!(destroy[6..8], 5u16.to_ne_bytes());
        assert_eq!(destroy[24..28], [0x19, 0x2b, 0, 9]);
    }

    #[test]
    fn an_answer_that_the_client_has_not_acknowledged_is_under_way_for_a_round_trip() {
        let answered = |ago: u64| Established {
            unacknowledged: 300,
            ..Established::example(9, Duration::from_millis(ago))
        };
        assert!(answered(10).is_in_flight());
        assert!(!answered(11).is_in_flight());
        let lost = Established {
            stuck: true,
            ..answered(1000)
        };
        let unread = Established {
            unread: 1,
            ..answered(1000)
        };
        assert!(lost.is_in_flight() && unread.is_in_flight());
        assert!(!unread.is_silent(Duration::ZERO));
        assert!(answered(1000).is_silent(Duration::from_secs(1)));
    }

    #[test]
    fn a_request_that_follows_an_answer_in_the_same_tick_is_not_taken_for_answered() {
        let tie = |ago: u64, acknowledged: u64| Established {
            last_received: Duration::from_millis(ago),
            last_acknowledged: Duration::from_millis(acknowledged),
            ..Established::example(9, Duration::from_millis(ago))
        };
        assert!(tie(1300, 1300).may_be_asked_since(SILENCE), "asked again");
        let acknowledged = tie(1300, 1260);
        assert!(
            !acknowledged.may_be_asked_since(SILENCE),
            "an answer was acknowledged"
        );
        let yet = tie(100, 100);
        assert!(
            !yet.may_be_asked_since(SILENCE),
            "it may be acknowledged yet"
        );
        assert!(!tie(5000, 5000).may_be_asked_since(SILENCE), "silent");
        assert!(tie(20, 20).may_end_with_a_request());
        assert!(!tie(20, 10).may_end_with_a_request(), "acknowledged later");
        let unacknowledged = Established {
            unacknowledged: 300,
            ..tie(20, 20)
        };
        assert!(
            !unacknowledged.may_end_with_a_request(),
            "a request would have acknowledged the answer"
        );
        let sent = Established::example(9, Duration::from_millis(1300));
        assert!(sent.server_spoke_last() && !sent.may_be_asked_since(SILENCE));
    }

    #[test]
    fn errors_and_ends() {
        let message = |kind: u16, payload: &[u8]| {
            let length = u32::try_from(16 + payload.len()).unwrap();
            [
                &length.to_ne_bytes()[..],
                &kind.to_ne_bytes(),
                &[0; 2],
                &7u32.to_ne_bytes(),
                &[0; 4],
                payload,
            ]
            .concat()
        };
        let error = |code: i32| message(2, &[&code.to_ne_bytes()[..], &[0; 16]].concat());
        let both = [error(-libc::EPERM), error(0), message(3, &[0; 4])].concat();
        let found = replies(&both).unwrap();
        assert!(
            matches!(
                found.as_slice(),
                [
                    Reply::Failed {
                        sequence: 7,
                        errno: libc::EPERM
                    },
                    Reply::Done { sequence: 7 },
                    Reply::Done { sequence: 7 },
                ]
            ),
            "{found:?}"
        );
    }

    proptest! {
        #[test]
        fn any_datagram(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = replies(&bytes);
        }

        /// With a true length, so that what is inside is looked at.
        #[test]
        fn any_message(
            kind in prop_oneof![Just(20u16), Just(21), 0u16..5],
            flags: u16,
            family in prop_oneof![Just(AF_INET), Just(AF_INET6), any::<u8>()],
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut payload = payload;
            if let Some(first) = payload.first_mut() {
                *first = family;
            }
            let length = u32::try_from(16 + payload.len()).unwrap();
            let bytes = [
                &length.to_ne_bytes()[..],
                &kind.to_ne_bytes(),
                &flags.to_ne_bytes(),
                &[0; 8],
                &payload,
            ].concat();
            let _ = replies(&bytes);
        }
    }
}
