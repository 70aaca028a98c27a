//! Whether this agent takes connections, and why not.

mod retirable;
mod stance;
mod standing;

pub use retirable::Retirable;
pub use stance::{InForce, Stance, Steers};
pub use standing::{PassingBy, Standing};
