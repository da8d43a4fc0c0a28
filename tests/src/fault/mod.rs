//! What goes wrong on purpose.

pub mod process;
pub mod proxy;
