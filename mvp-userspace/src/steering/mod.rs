//! Whether this agent takes connections, and why not.

mod retirable;
mod retire;
mod stance;
mod standing;

pub use retirable::Retirable;
pub use retire::{
    Agents, Due, Ended, Figures, Open, QUIET_FIRST, QUIET_LAST, RetireTally, RetireView, Retiring,
    Schedule, Scope,
};
pub use stance::{InForce, Stance, Steers};
pub use standing::{PassingBy, Standing};
