//! The proof that a server accepts this agent, and takes the users that it asserts for exactly those users. Pure: what to ask, what an
//! answer proves, and what follows for the agent. `discovery` asks.
//!
//!
//! file | does |
//! |---|---|
//!
//! `challenge` | what is asked, and what an answer to it proves |
//!
//! `names` | the header names that servers believe, as they publish them |
//!
//! `state` | what was proved of one server, and whether this agent may take connections |

mod challenge;
mod names;
mod state;

pub use challenge::{
    Challenge, ChallengeStage, Evidence, Judgement, OwnUser, ProofFailure, REVIEWS, ServerReply,
};
pub(super) use names::LearnedKind;
pub use names::{AUTHENTICATION, AUTHENTICATION_LIST, Learned, PublishedNames};
pub use state::{BelievedNames, ClassProof, LocalFacts, OwnPair, Proofs, local_unproved};
