//! What goes wrong on purpose.

pub mod commits;
pub mod process;
pub mod proxy;
