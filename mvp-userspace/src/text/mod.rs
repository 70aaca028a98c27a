//! Text for people: tables, ages, and names that a client or a server chose. Pure.

mod printable;
pub mod table;

pub use printable::{AUDIT_ID, TEXT, printable};
