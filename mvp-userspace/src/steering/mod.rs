//! Whether this agent takes connections, and why not.

mod stance;
mod standing;

pub use stance::{InForce, Stance, Steers};
pub use standing::{PassingBy, Standing};
