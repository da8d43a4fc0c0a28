//! Rows that cannot be published, and the events of their key that wait behind them.
//!
//! | file | what it owns |
//! |---|---|
//! | [`entry`] | what is kept of a row, and why |
//! | [`holds`] | which keys are held and which rows are settled by an entry; pure |
//! | [`carry`] | in which order a decision is carried out; pure |
//! | [`desk`] | what the router hands in and asks, bounded |
//! | [`keeper`] | carries it out on the session's SQL connection, and settles |
//! | [`table`] | the statements |
//! | [`recall`] | what a session begins with |
//! | `again` | entries that PostgreSQL lost, made from their rows |
//! | `model` | the table over a map, for what simulates it |
//!
//! A hold is a state of the *stream*: it begins where the row stands and ends where the relay reads the
//! decision, a transactional logical message that the SQL transaction of the decision wrote. There the
//! entry is published (or, discarded, is not), then everything that queued up behind it, in order, and the
//! hold is lifted. Nothing can overtake in between, since nobody else publishes (R46).
//!
//! A hold begins when the broker has taken everything before the row. An event of the key that is refused after
//! that would come again in front of it, and the key have two that hold it: whichever is decided on first would let
//! pass what waits for the other.
//!
//! An entry settles its row when it is committed **and** a state record that lists it is acknowledged: a
//! failover can lose the entry although the position has passed its row, and the list shows that (R39).

mod again;
pub mod carry;
pub mod desk;
pub mod entry;
pub mod holds;
pub mod keeper;
#[cfg(any(test, feature = "simulation"))]
pub mod model;
pub mod recall;
pub mod table;

pub use desk::Desk;
pub use entry::{Cause, Entry, RawRow, State};
pub use holds::{Holds, Known, NotTaken, Standing};

#[cfg(test)]
mod tests;
