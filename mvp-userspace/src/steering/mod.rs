//! Whether this agent takes connections, and why not.

mod standing;

pub use standing::{PassingBy, Standing};
