//! Follows the requests of an HTTP/1.1 connection, one head and one body after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::body::Body;
use super::essence::{broken, essence};
use super::head::Head;
use super::overlong::Overlong;
use crate::h2wire::Refusal;

/// Beside its fields, a head may have so many bytes: as in Go's `net/http` (`initialReadLimitSize`).
const SLOP: usize = 4096;
/// A head that is above the limit is read to its end, up to so many times the limit. Over HTTP/2 it is as many.
const OVERLONG: usize = 4;
/// The body of a refused request is read up to here so that the connection can go on: Go's `maxPostHandlerReadBytes`.
const DRAINED: u64 = 256 << 10;
/// What may wait for the answer to a request that asks for another protocol.
const WAITING: usize = 64 << 10;

/// What a head may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub bytes: usize,
    pub count: usize,
}

/// How many requests of the connection were answered, and whether the last answer changed the protocol.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answered(Arc<AtomicU64>);

/// Follows one connection from its first byte on.
#[derive(Debug)]
pub(crate) struct Heads {
    state: State,
    limits: HeadLimits,
    /// A head that is not complete, or what waits.
    pub(super) held: Vec<u8>,
    /// How much of it has no end of a head.
    searched: usize,
    /// Heads that were passed on.
    passed: u64,
    answered: Answered,
    /// The targets of all heads, and whether they were refused.
    #[cfg(test)]
    pub(super) judged: Vec<(Vec<u8>, bool)>,
}

#[derive(Debug)]
enum State {
    Head,
    Overlong(Overlong),
    /// In a body: passed on, and what follows it may be another protocol.
    Body {
        body: Body,
        upgrades: bool,
    },
    /// In the body of a refused request, of which so many bytes may still come.
    Drained {
        body: Body,
        left: u64,
    },
    /// Whether what comes is another protocol is not known before the answer.
    Waiting,
    /// Another protocol.
    Through,
    /// The connection is to end after the answer: nothing that comes is read any more.
    Ending,
    /// What comes cannot be told from requests: the connection has ended as far as the library is concerned.
    Over,
}

impl Answered {
    /// The next answer is about to be sent.
    pub(crate) fn next(&self, upgraded: bool) {
        match upgraded {
            true => self.0.store(u64::MAX, Ordering::Release),
            false => {
                self.0.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Heads {
    /// For a new connection. The second value is for the server's side of it: there it is said that a request was answered.
    pub(crate) fn new(limits: HeadLimits) -> (Self, Answered) {
        let answered = Answered::default();
        let heads = Self {
            state: State::Head,
            limits,
            held: Vec::new(),
            searched: 0,
            passed: 0,
            answered: answered.clone(),
            #[cfg(test)]
            judged: Vec::new(),
        };
        (heads, answered)
    }

    /// Takes the next bytes of the connection. `None`: the library is to have them as they came. Otherwise it is to have those
    /// that are returned instead.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Out {
            came: bytes,
            at: 0,
            instead: None,
        };
        while !out.rest().is_empty() {
            let rest = out.rest();
            self.step(rest, &mut out);
        }
        out.instead
    }

    /// What waited, once it is known what it is.
    pub(crate) fn settled(&mut self) -> Option<Vec<u8>> {
        if !matches!(self.state, State::Waiting) || self.answered.count() < self.passed {
            return None;
        }
        self.state = match self.answered.count() {
            u64::MAX => State::Through,
            _ => State::Head,
        };
        let waited = std::mem::take(&mut self.held);
        Some(self.feed(&waited).unwrap_or(waited))
    }

    /// Whether more may be read now. Otherwise there will be an answer first.
    pub(crate) fn may_read(&self) -> bool {
        !matches!(self.state, State::Waiting) || self.held.len() < WAITING
    }

    /// The library is to be told that the connection has ended.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// The client may still be sending what nobody reads.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending)
    }

    /// What is held, as it came: the client sends no more.
    pub(crate) fn give_up(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn step(&mut self, rest: &[u8], out: &mut Out<'_>) {
        match &mut self.state {
            State::Head => self.head(rest, out),
            State::Overlong(overlong) => {
                let end = overlong.take(rest);
                out.leave(end.unwrap_or(rest.len()));
                if end.is_some() {
                    self.overlong_ended(out);
                } else if overlong.seen > self.limits.bytes.saturating_mul(OVERLONG) {
                    let head = broken(b"", Refusal::HeaderBytes);
                    out.put(&head);
                    self.pass(&head, true, State::Ending);
                }
            }
            State::Body { body, upgrades } => match body.take(rest) {
                Ok(taken) => {
                    out.keep(taken);
                    if body.has_ended() {
                        self.state = after_body(*upgrades);
                    }
                }
                // The library finds it as well, and answers.
                Err(_) => {
                    out.keep(rest.len());
                    self.state = State::Over;
                }
            },
            State::Drained { body, left } => {
                let now = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let taken = body.take(rest.get(..now).unwrap_or_default());
                let ended = body.has_ended();
                *left -= taken.unwrap_or_default() as u64;
                out.leave(taken.unwrap_or(rest.len()));
                if ended {
                    self.state = State::Head;
                } else if taken.is_err() || *left == 0 {
                    self.state = State::Over;
                }
            }
            State::Waiting => {
                self.held.extend_from_slice(rest);
                out.leave(rest.len());
            }
            State::Through => out.keep(rest.len()),
            State::Ending | State::Over => out.leave(rest.len()),
        }
    }

    fn head(&mut self, rest: &[u8], out: &mut Out<'_>) {
        if self.held.is_empty() {
            // The library passes over empty lines before a request (RFC 9112 §2.2).
            let empty = rest
                .iter()
                .take_while(|byte| b"\r\n".contains(byte))
                .count();
            if empty > 0 {
                out.keep(empty);
                return;
            }
            if let Some(end) = head_end(rest, 0) {
                let head = rest.get(..end).unwrap_or_default();
                match self.judge(head) {
                    (None, next) => {
                        out.keep(end);
                        self.pass(head, false, next);
                    }
                    (Some(instead), next) => {
                        out.leave(end);
                        out.put(&instead);
                        self.pass(&instead, true, next);
                    }
                }
                return;
            }
        }
        let before = self.held.len();
        self.held.extend_from_slice(rest);
        match head_end(&self.held, self.searched) {
            Some(end) => {
                out.leave(end.saturating_sub(before));
                let mut head = std::mem::take(&mut self.held);
                head.truncate(end);
                self.searched = 0;
                let (instead, next) = self.judge(&head);
                let refused = instead.is_some();
                let head = instead.unwrap_or(head);
                out.put(&head);
                self.pass(&head, refused, next);
            }
            None => {
                out.leave(rest.len());
                // The last bytes may be the beginning of an end.
                self.searched = self.held.len().saturating_sub(2);
                if self.held.len() > self.most() {
                    let mut overlong = Overlong::default();
                    overlong.take(&std::mem::take(&mut self.held));
                    self.searched = 0;
                    self.state = State::Overlong(overlong);
                }
            }
        }
    }

    /// What the library is to have instead of the head, and what comes behind it.
    fn judge(&self, bytes: &[u8]) -> (Option<Vec<u8>>, State) {
        let head = match Head::read(bytes) {
            Ok(head) => head,
            Err(refusal) => return (Some(broken(bytes, refusal)), State::Ending),
        };
        let refusal = if bytes.len() > self.most() {
            Some(Refusal::HeaderBytes)
        } else if head.count > self.limits.count {
            Some(Refusal::HeaderCount)
        } else {
            head.target_refusal()
        };
        match refusal {
            None if head.body.has_ended() => (None, after_body(head.upgrades)),
            None => {
                let (body, upgrades) = (head.body, head.upgrades);
                (None, State::Body { body, upgrades })
            }
            Some(refusal) => refuse(&head, refusal),
        }
    }

    fn overlong_ended(&mut self, out: &mut Out<'_>) {
        let State::Overlong(overlong) = std::mem::replace(&mut self.state, State::Ending) else {
            return;
        };
        let kept = overlong.into_head().unwrap_or_default();
        let (instead, next) = match Head::read(&kept) {
            Ok(head) => refuse(&head, Refusal::HeaderBytes),
            Err(refusal) => (Some(broken(&kept, refusal)), State::Ending),
        };
        let instead = instead.unwrap_or_default();
        out.put(&instead);
        self.pass(&instead, true, next);
    }

    /// The library has been given a head.
    #[cfg_attr(not(test), expect(unused_variables, reason = "for tests"))]
    fn pass(&mut self, head: &[u8], refused: bool, next: State) {
        self.passed += 1;
        self.state = next;
        #[cfg(test)]
        {
            let target = head.split(|byte| *byte == b' ').nth(1);
            self.judged
                .push((target.unwrap_or_default().to_vec(), refused));
        }
    }

    fn most(&self) -> usize {
        self.limits.bytes.saturating_add(SLOP)
    }
}

/// A request that is refused; its connection goes on if its body can be read to its end. One that waits for `100 Continue` may or may
/// not be followed by its body once it is refused (RFC 9110 §10.1.1).
fn refuse(head: &Head<'_>, refusal: Refusal) -> (Option<Vec<u8>>, State) {
    let large = matches!(head.body, Body::Sized(length) if length > DRAINED);
    let has_body = !head.body.has_ended();
    let closes = has_body && (head.expects || large);
    let next = match (closes, has_body) {
        (true, _) => State::Ending,
        (false, true) => State::Drained {
            body: head.body,
            left: DRAINED,
        },
        (false, false) => State::Head,
    };
    (Some(essence(head, refusal, closes)), next)
}

fn after_body(upgrades: bool) -> State {
    match upgrades {
        true => State::Waiting,
        false => State::Head,
    }
}

/// Behind the empty line that ends a head. As the library, this takes a bare LF for the end of a line.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// What goes on of the bytes that came: copied only where it differs.
struct Out<'a> {
    came: &'a [u8],
    at: usize,
    instead: Option<Vec<u8>>,
}

impl<'a> Out<'a> {
    fn rest(&self) -> &'a [u8] {
        self.came.get(self.at..).unwrap_or_default()
    }

    fn keep(&mut self, count: usize) {
        let kept = self.rest().get(..count).unwrap_or_default();
        if let Some(instead) = &mut self.instead {
            instead.extend_from_slice(kept);
        }
        self.at += count;
    }

    fn leave(&mut self, count: usize) {
        self.copied();
        self.at += count;
    }

    fn put(&mut self, bytes: &[u8]) {
        self.copied().extend_from_slice(bytes);
    }

    fn copied(&mut self) -> &mut Vec<u8> {
        let before = self.came.get(..self.at).unwrap_or_default();
        self.instead.get_or_insert_with(|| before.to_vec())
    }
}
