//! How the programs of the transactional outbox connect to PostgreSQL.
//!
//! | module | what it owns |
//! |---|---|
//! | [`url`] | a `postgres://` URL: taken apart, checked, never shown with its password |
//! | [`transport`] | how a connection is protected: the one place that decides it |
//! | [`password`] | a password that stands in a file of its own |
//! | [`tls`] | TLS, for the SQL driver and for whoever speaks the protocol by itself |
//! | [`program`] | who speaks, as its sentences name it |
//! | [`link`] | one database as settings name it |
//! | [`session`] | what a session is called, and the settings it begins with |
//! | [`dial`], [`guard`], [`connect`] | a connection to it: the socket, what a server may ask for, the login |
//! | [`pool`] | a bounded number of such connections |
//!
//! The relay takes the first five and connects by itself, since its replication connection logs in before the
//! driver does; consumers take [`Link`] and [`Pool`].

pub mod connect;
pub mod dial;
pub mod guard;
pub mod link;
pub mod password;
pub mod pool;
pub mod program;
pub mod session;
pub mod tls;
pub mod transport;
pub mod url;

pub use connect::{Driver, LinkError};
pub use link::Link;
pub use pool::{Lease, Pool, PoolError, PoolLook};
pub use program::Program;
pub use session::Session;
pub use url::Mistakes;

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
