//! How the programs of the transactional outbox connect to PostgreSQL.
//!
//! | module | what it owns |
//! |---|---|
//! | [`url`] | a `postgres://` URL: taken apart, checked, never shown with its password |
//! | [`transport`] | how a connection is protected: the one place that decides it |
//! | [`password`] | a password that stands in a file of its own |
//! | [`tls`] | TLS, for the SQL driver and for whoever speaks the protocol by itself |
//! | [`program`] | who speaks, as its sentences name it |

pub mod password;
pub mod program;
pub mod tls;
pub mod transport;
pub mod url;

pub use program::Program;
