//! What the agents' Lease contains, and what follows from it. Pure; time is passed in.
//!
//! Each agent has an annotation of its own, in which it says that it saw a sign, and operators share one, in which they say that all
//! agents are to be armed. Somebody who may write the Lease can arm guards for a time, and can do nothing else with it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::steering::GuardReasons;

/// The prefix of every annotation here.
const PREFIX: &str = "mvp/";
/// Where operators say that all are to be armed.
pub(super) const OPERATOR: &str = "mvp/operator";
/// So long a sign stands for the others: until they see signs of their own, or none comes.
pub(super) const SIGN_STANDS: Duration = Duration::from_secs(60);
/// Longest that any announcement counts, whatever it says: a announcement that is forgotten must end.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Annotations looked at; more than any control plane has agents.
const MAX_WORDS: usize = 128;
/// Bytes of one annotation's value; longer ones are not looked at.
const MAX_LENGTH: usize = 1024;
/// The name part of an annotation's key (`k8s.io/apimachinery/pkg/util/validation`, `qualifiedNameMaxLength`).
const MAX_NAME: usize = 63;

/// One annotation's value.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Announcement {
    /// The node whose agent wrote it.
    pub by: String,
    /// The codes of the signs, or `operator`.
    pub because: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
}

/// What is known of the Lease.
#[derive(Debug)]
pub(super) struct Announcements {
    own: String,
    /// `None`: it was not read yet.
    read: Option<BTreeMap<String, Kept>>,
}

#[derive(Clone, Debug)]
struct Kept {
    value: String,
    /// `None`: it cannot be read.
    announcement: Option<Announcement>,
    /// [`Announcement::until`], at most [`LONGEST`] after it was first seen.
    until: Option<OffsetDateTime>,
}

/// What speaks for arming.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct StandingAnnouncements {
    /// The last moment for which another agent's sign stands.
    pub agent: Option<OffsetDateTime>,
    /// The same for an operator's announcement.
    pub operator: Option<OffsetDateTime>,
}

impl Announcement {
    /// That this node's agent saw these signs.
    pub(super) fn sign(node: &str, reasons: GuardReasons, now: OffsetDateTime) -> Self {
        Self {
            by: node.to_owned(),
            because: reasons.to_string(),
            at: now,
            until: now + SIGN_STANDS,
        }
    }

    /// That an operator has all agents armed for so long, at most [`LONGEST`].
    pub(super) fn operator(node: &str, time: Duration, now: OffsetDateTime) -> Self {
        Self {
            by: node.to_owned(),
            because: "operator".to_owned(),
            at: now,
            until: now + time.min(LONGEST),
        }
    }
}

/// The key under which the agent of this node speaks.
pub(super) fn key_of(node: &str) -> String {
    let name = format!("sign.{node}");
    if name.len() <= MAX_NAME {
        return format!("{PREFIX}{name}");
    }
    // A node's name may be four times as long as a key.
    let digest = Sha256::digest(node);
    let digest: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let head: String = node.chars().take(40).collect();
    format!("{PREFIX}sign.{head}-{digest}")
}

impl Announcements {
    /// The announcements as the agent of this node sees them.
    pub(super) fn new(node: &str) -> Self {
        Self {
            own: key_of(node),
            read: None,
        }
    }

    /// Takes in the Lease's annotations. True if another agent has said something since they were last read: a sign even if its
    /// clock and ours differ by more than its announcement stands.
    pub(super) fn take(
        &mut self,
        annotations: &BTreeMap<String, String>,
        now: OffsetDateTime,
    ) -> bool {
        let before = self.read.take();
        let mut kept = BTreeMap::new();
        let mut news = false;
        let ours = annotations
            .iter()
            .filter(|(key, value)| key.starts_with(PREFIX) && value.len() <= MAX_LENGTH);
        for (key, value) in ours.take(MAX_WORDS) {
            let known = before.as_ref().and_then(|before| before.get(key));
            if let Some(known) = known.filter(|known| known.value == *value) {
                kept.insert(key.clone(), known.clone());
                continue;
            }
            let announcement: Option<Announcement> = serde_json::from_str(value).ok();
            let is_sign = *key != self.own && key != OPERATOR;
            news |= is_sign && announcement.is_some() && before.is_some();
            let until = announcement
                .as_ref()
                .map(|announcement| announcement.until.min(now + LONGEST));
            kept.insert(
                key.clone(),
                Kept {
                    value: value.clone(),
                    announcement,
                    until,
                },
            );
        }
        self.read = Some(kept);
        news
    }

    /// What stands after `now`.
    pub(super) fn standing(&self, now: OffsetDateTime) -> StandingAnnouncements {
        let mut standing = StandingAnnouncements::default();
        for (key, kept) in self.read.iter().flatten() {
            let until = kept.until.filter(|until| *until > now);
            if key == OPERATOR {
                standing.operator = until;
            } else if *key != self.own {
                standing.agent = standing.agent.max(until);
            }
        }
        standing
    }

    /// The latest announcement of all, for the status.
    pub(super) fn last(&self) -> Option<&Announcement> {
        let announcements = self.read.iter().flatten();
        announcements
            .filter_map(|(_, kept)| kept.announcement.as_ref())
            .max_by_key(|announcement| announcement.at)
    }

    pub(super) fn operator(&self) -> Option<&Announcement> {
        self.read.as_ref()?.get(OPERATOR)?.announcement.as_ref()
    }
}

/// A time in the form that the Lease uses, to the second.
pub(super) fn written(at: OffsetDateTime) -> String {
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::GuardReason;
    use proptest::prelude::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-02 03:04:05 UTC);
    const MINUTE: Duration = Duration::from_secs(60);

    fn lease(announcements: &[(&str, &Announcement)]) -> BTreeMap<String, String> {
        let text = |announcement: &&Announcement| serde_json::to_string(announcement).unwrap();
        let announcements = announcements.iter();
        announcements
            .map(|(key, announcement)| ((*key).into(), text(announcement)))
            .collect()
    }

    fn sign(node: &str, at: OffsetDateTime) -> Announcement {
        Announcement::sign(node, GuardReasons::one(GuardReason::ManifestChanged), at)
    }

    #[test]
    fn another_agents_sign_is_news_once_and_stands_for_its_time() {
        let mut announcements = Announcements::new("cp-a");
        assert!(!announcements.take(&BTreeMap::new(), NOW));
        assert_eq!(
            announcements.standing(NOW),
            StandingAnnouncements::default()
        );
        let (key, announcement) = (key_of("cp-b"), sign("cp-b", NOW));
        let said = lease(&[(&key, &announcement)]);
        assert!(announcements.take(&said, NOW));
        assert!(!announcements.take(&said, NOW));
        assert_eq!(announcements.standing(NOW).agent, Some(announcement.until));
        assert_eq!(
            announcements.standing(NOW + SIGN_STANDS),
            StandingAnnouncements::default()
        );
        assert_eq!(announcements.last(), Some(&announcement));
        // The next is news, whatever its clock says.
        let late = sign("cp-b", NOW - 10 * MINUTE);
        assert!(announcements.take(&lease(&[(&key, &late)]), NOW));
        assert_eq!(
            announcements.standing(NOW),
            StandingAnnouncements::default()
        );
    }

    #[test]
    fn what_stood_there_at_the_start_is_no_news() {
        let mut announcements = Announcements::new("cp-a");
        let (key, announcement) = (key_of("cp-b"), sign("cp-b", NOW));
        assert!(!announcements.take(&lease(&[(&key, &announcement)]), NOW));
        assert!(announcements.standing(NOW).agent.is_some());
    }

    #[test]
    fn ones_own_sign_says_nothing_and_an_operators_word_counts_for_all() {
        let mut announcements = Announcements::new("cp-a");
        announcements.take(&BTreeMap::new(), NOW);
        let own = sign("cp-a", NOW);
        let operator = Announcement::operator("cp-a", 30 * MINUTE, NOW);
        let said = lease(&[(&key_of("cp-a"), &own), (OPERATOR, &operator)]);
        assert!(!announcements.take(&said, NOW));
        let standing = announcements.standing(NOW + 29 * MINUTE);
        assert_eq!(
            (standing.agent, standing.operator),
            (None, Some(operator.until))
        );
        assert_eq!(
            announcements.standing(NOW + 30 * MINUTE),
            StandingAnnouncements::default()
        );
        assert_eq!(announcements.operator(), Some(&operator));
        // Taken back.
        announcements.take(&lease(&[(&key_of("cp-a"), &own)]), NOW);
        assert_eq!(
            announcements.standing(NOW),
            StandingAnnouncements::default()
        );
    }

    /// Agents of two releases share one Lease: a sign that only the other one knows arms this one too.
    #[test]
    fn the_word_of_another_release_is_understood() {
        let mut announcements = Announcements::new("cp-a");
        announcements.take(&BTreeMap::new(), NOW);
        let mut text = serde_json::to_value(sign("cp-b", NOW)).unwrap();
        text["because"] = "a_sign_of_the_future".into();
        text["since"] = "another release".into();
        let said = BTreeMap::from([(key_of("cp-b"), text.to_string())]);
        assert!(announcements.take(&said, NOW));
        assert_eq!(announcements.standing(NOW).agent, Some(NOW + SIGN_STANDS));
    }

    #[test]
    fn no_word_counts_for_longer_than_a_day() {
        let mut announcements = Announcements::new("cp-a");
        let announcement = Announcement {
            until: NOW + 1000 * LONGEST,
            ..Announcement::operator("cp-b", MINUTE, NOW)
        };
        let said = lease(&[(OPERATOR, &announcement)]);
        announcements.take(&said, NOW);
        // Reading it again does not prolong it.
        announcements.take(&said, NOW + LONGEST / 2);
        assert!(announcements.standing(NOW + LONGEST / 2).operator.is_some());
        assert_eq!(announcements.standing(NOW + LONGEST).operator, None);
    }

    #[test]
    fn keys_are_valid_and_of_one_node_each() {
        assert_eq!(key_of("cp-a"), "mvp/sign.cp-a");
        let long = [1, 2].map(|last| key_of(&format!("{}{last}", "n".repeat(200))));
        assert_ne!(long[0], long[1]);
        assert!(long.iter().all(|key| key.len() <= PREFIX.len() + MAX_NAME));
    }

    proptest! {
        /// Whatever stands there: nothing but arming comes of it, for a day at most, and unreadable words say nothing.
        #[test]
        fn any_annotations(
            all in proptest::collection::btree_map("(mvp/)?[a-z.-]{0,12}", ".{0,40}", 0..8),
            until in -100_000i64..100_000_000,
        ) {
            let mut announcements = Announcements::new("cp-a");
            prop_assert!(!announcements.take(&all, NOW));
            prop_assert_eq!(announcements.standing(NOW), StandingAnnouncements::default());
            let mut all = all;
            let announcement = Announcement {
                until: NOW + time::Duration::seconds(until),
                ..sign("cp-b", NOW)
            };
            all.insert(key_of("cp-b"), serde_json::to_string(&announcement).unwrap());
            prop_assert!(announcements.take(&all, NOW));
            prop_assert_eq!(announcements.standing(NOW).agent.is_some(), until > 0);
            prop_assert_eq!(announcements.standing(NOW + LONGEST), StandingAnnouncements::default());
        }
    }
}
