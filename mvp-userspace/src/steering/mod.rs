//! Whether this agent takes connections, and why not.

mod retirable;
mod standing;

pub use retirable::Retirable;
pub use standing::{PassingBy, Standing};
