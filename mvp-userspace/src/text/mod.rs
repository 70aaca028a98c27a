//! Text for people: tables, ages, and names that a client or a server chose. Pure.

mod printable;
pub(crate) mod table;

pub(crate) use printable::{AUDIT_ID, TEXT, printable};
