//! What has changed from one look at the agent's status to the next, as events. What is noted is what `mvp status` shows, and nothing
//! has to report for itself.

use std::collections::BTreeSet;

use crate::admin::{ServerView, StatusView};
use crate::history::{Event, Kind};
use crate::steering::RetireView;

/// A certificate that ends within this time is near its end: a week, as in the alert `MVPCertificateExpires`.
const NEAR: i64 = 7 * 24 * 3600;
/// Reasons for which the guard is armed without a sign of an upgrade.
const NO_SIGNS: [&str; 2] = ["starting", "steering_off"];

/// Remembers the last look.
#[derive(Debug, Default)]
pub(super) struct Changes {
    before: Option<StatusView>,
    phase: Phase,
    /// The figures at the beginning of the retirement that is under way, and when that was.
    began: (RetireView, u64),
    near: BTreeSet<String>,
}

/// How far a retirement is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    /// None, or it is not known yet whether there is anything to end.
    #[default]
    Off,
    Open,
    /// Nothing is left to be ended.
    Done,
}

impl Changes {
    /// The events since the last look. `now_ms`: of this one, in milliseconds since 1970.
    pub(super) fn look(&mut self, now: StatusView, now_ms: u64) -> Vec<Event> {
        let before = self.before.take().unwrap_or_default();
        let mut noted = Noted {
            at_ms: now_ms,
            events: Vec::new(),
        };
        servers(&before.servers, &now.servers, &mut noted);
        guard(&before, &now, &mut noted);
        stance(&before, &now, &mut noted);
        self.retirement(&before.retirement, &now.retirement, &mut noted);
        self.files(&before, &now, &mut noted);
        if now.restart_needed && !before.restart_needed {
            noted.add(Kind::RestartNeeded, "", &now.manifest, "");
        }
        self.before = Some(now);
        noted.events
    }

    fn retirement(&mut self, before: &RetireView, now: &RetireView, noted: &mut Noted) {
        if before.round != now.round && self.phase == Phase::Open {
            let detail = format!("others are to be ended now; {}", ended(&self.began.0, now));
            noted.add(Kind::RetirementEnded, "", &detail, "");
        }
        let phase = match (
            before.round == now.round,
            now.retiring && now.failed.is_none(),
        ) {
            (_, true) if now.open > 0 => Phase::Open,
            (_, true) => Phase::Done,
            (false, false) => Phase::Off,
            // A look that failed says nothing of what is open.
            (true, false) if now.retiring => self.phase,
            (true, false) => Phase::Off,
        };
        let was = match before.round == now.round {
            true => self.phase,
            false => Phase::Off,
        };
        match (was, phase) {
            (Phase::Off | Phase::Done, Phase::Open) => {
                self.began = (now.clone(), noted.at_ms);
                let detail = format!("{} of before are open", now.open);
                noted.add(Kind::RetirementBegan, "", &detail, "");
            }
            (Phase::Off, Phase::Done) => {
                noted.add(Kind::RetirementEnded, "", &ended(before, now), "");
            }
            (Phase::Open, Phase::Done | Phase::Off) => {
                let took = noted.at_ms.saturating_sub(self.began.1);
                let left = match now.open {
                    0 => String::new(),
                    open => format!("{open} are left; "),
                };
                let detail = format!("{left}{} in {took} ms", ended(&self.began.0, now));
                noted.add(Kind::RetirementEnded, "", &detail, "");
            }
            _ => {}
        }
        self.phase = phase;
    }

    fn files(&mut self, before: &StatusView, now: &StatusView, noted: &mut Noted) {
        for file in &now.certificates {
            let known = before
                .certificates
                .iter()
                .find(|other| other.key == file.key && other.file == file.file);
            if known.is_some_and(|known| known.reloads < file.reloads) {
                noted.add(Kind::FilesReloaded, &file.file, &file.key, "");
            }
            if let Some(error) = &file.last_error
                && known.is_none_or(|known| known.last_error.as_ref() != Some(error))
            {
                noted.add(Kind::ReloadFailed, &file.file, error, "");
            }
            let near = file.expires_in_seconds.is_some_and(|left| left < NEAR);
            match near {
                true if self.near.insert(file.file.clone()) => {
                    let left = file.expires_in_seconds.unwrap_or_default();
                    let detail = match u64::try_from(left) {
                        Ok(left) => format!("ends in {}", crate::text::table::age(left * 1000)),
                        Err(_) => "has ended".to_owned(),
                    };
                    noted.add(Kind::CertificateNearEnd, &file.file, &detail, "");
                }
                true => {}
                false => {
                    self.near.remove(&file.file);
                }
            }
        }
        let files: BTreeSet<_> = now.certificates.iter().map(|file| &file.file).collect();
        self.near.retain(|file| files.contains(file));
    }
}

/// The events of one look.
struct Noted {
    at_ms: u64,
    events: Vec<Event>,
}

impl Noted {
    fn add(&mut self, kind: Kind, subject: &str, detail: &str, value: &str) {
        self.add_at(self.at_ms, kind, subject, detail, value);
    }

    fn add_at(&mut self, at_ms: u64, kind: Kind, subject: &str, detail: &str, value: &str) {
        let event = Event::new(at_ms, kind, subject, detail, value);
        self.events.push(event);
    }
}

fn servers(before: &[ServerView], now: &[ServerView], noted: &mut Noted) {
    for server in now {
        let name = server.name.as_str();
        let known = before.iter().find(|other| other.name == server.name);
        let version = server.version.as_deref();
        // It is not forgotten while the server is away.
        if let Some(version) = version {
            match known.and_then(|known| known.version.as_deref()) {
                None => noted.add(Kind::ServerSeen, name, version, version),
                Some(before) if before != version => {
                    let detail = format!("{before} -> {version}");
                    noted.add(Kind::ServerVersion, name, &detail, version);
                }
                Some(_) => {}
            }
        }
        let first = ServerView {
            available: true,
            ..ServerView::default()
        };
        let known = known.unwrap_or(&first);
        let why = server.last_error.as_deref().unwrap_or_default();
        match (known.available, server.available) {
            (true, false) => noted.add(Kind::ServerUnavailable, name, why, ""),
            (false, true) => noted.add(Kind::ServerAvailable, name, "", ""),
            _ => {}
        }
        if server.stopping && !known.stopping {
            noted.add(Kind::ServerStopping, name, "", "");
        }
        proof(known, server, noted);
    }
    for server in before {
        if now.iter().all(|other| other.name != server.name) {
            noted.add(Kind::ServerLeft, &server.name, "", "");
        }
    }
}

/// Only once an outcome is known: a proof that has not been tried has not failed.
fn proof(known: &ServerView, server: &ServerView, noted: &mut Noted) {
    let (before, now) = (&known.proof, &server.proof);
    let tried = now.asserted_users.age_ms.is_some();
    if !tried || before.asserted_users.age_ms.is_some() && before.word() == now.word() {
        return;
    }
    match now.word() {
        "yes" => noted.add(Kind::ProofOk, &server.name, "", "yes"),
        word => {
            let why = [&now.asserted_users.why, &now.tokens.why];
            let why = why.into_iter().flatten().next();
            let detail = why.map(String::as_str).unwrap_or_default();
            noted.add(Kind::ProofFailed, &server.name, detail, word);
        }
    }
}

fn guard(before: &StatusView, now: &StatusView, noted: &mut Noted) {
    let signs = |view: &StatusView| -> Vec<String> {
        let reasons = view.guard.reasons.iter();
        let signs = reasons.filter(|reason| !NO_SIGNS.contains(&reason.as_str()));
        match view.guard.state.as_str() {
            "armed" => signs.cloned().collect(),
            _ => Vec::new(),
        }
    };
    let (was, is) = (signs(before), signs(now));
    // The state may be older than this look. A sign that came while the guard was armed already is not.
    let changed = before.guard.state != now.guard.state;
    let at_ms = match changed {
        true => noted.at_ms.saturating_sub(now.guard.since_ms),
        false => noted.at_ms,
    };
    if was.is_empty() && !is.is_empty() {
        let signs = is.join(",");
        noted.add_at(at_ms, Kind::GuardArmed, "", &now.guard.line(), &signs);
    } else if !was.is_empty() && is.is_empty() {
        let reasons = now.guard.reasons.join(",");
        noted.add_at(at_ms, Kind::GuardIdle, "", &now.guard.line(), &reasons);
    }
}

fn stance(before: &StatusView, now: &StatusView, noted: &mut Noted) {
    let first = |view: &StatusView| {
        let reasons = view.stance.reasons.first();
        reasons.map(|reason| reason.reason.clone())
    };
    match (first(before), first(now)) {
        (was, Some(reason)) if was.as_ref() != Some(&reason) => {
            noted.add(Kind::PassingBy, "", &now.stance.line, &reason);
        }
        (Some(_), None) => noted.add(Kind::TakesConnections, "", &now.stance.line, ""),
        _ => {}
    }
}

/// What became of connections between two looks.
fn ended(before: &RetireView, now: &RetireView) -> String {
    let since = |count: fn(&RetireView) -> u64| count(now).saturating_sub(count(before));
    let (destroyed, late) = (since(|view| view.destroyed), since(|view| view.late));
    let gone = since(|view| view.gone);
    format!(
        "{} ended, {late} of them where a request may have been cut; {gone} went by themselves",
        destroyed + late
    )
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
