//! Private PostgreSQL and Kafka processes, started in seconds, with ports and directories of their own.

pub mod ground;
pub mod kafka;
pub mod postgres;

use std::sync::OnceLock;

pub use kafka::Kafka;
pub use postgres::Postgres;

/// The PostgreSQL versions that the project supports.
pub const POSTGRES_VERSIONS: [u32; 4] = [15, 16, 17, 18];

/// One PostgreSQL and one Kafka for all tests of a binary that do them no harm: a test that stops, kills
/// or restores a server starts one of its own.
#[derive(Debug)]
pub struct Shared {
    /// The PostgreSQL; give every test a database and a slot of its own.
    pub postgres: Postgres,
    /// The Kafka; give every test topics of its own.
    pub kafka: Kafka,
}

/// The servers shared by this test binary; the first call starts them. They end with the process.
pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| Shared { postgres: Postgres::start(usual_version()), kafka: Kafka::start() })
}

/// The PostgreSQL that tests use which need no certain version: `OUTBOX_TEST_PG`, else 15.
///
/// # Panics
/// When the variable holds something else than a number.
pub fn usual_version() -> u32 {
    let named = std::env::var("OUTBOX_TEST_PG").ok();
    named.map_or(POSTGRES_VERSIONS[0], |version| version.parse().expect("OUTBOX_TEST_PG is a major version"))
}
