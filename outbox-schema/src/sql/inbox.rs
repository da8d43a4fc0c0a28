//! The SQL of a consumer's inbox: settlements, parked keys, decisions on dead letters.
//!
//! It stands in the database that the handlers write to and needs nothing of the outbox, which may be in the same
//! database or in another. Consumers in any language call its functions; each is explained in its file in `sql/inbox/`.

use super::Migration;

/// What `inbox.contract_version()` answers once [`MIGRATIONS`] are installed.
pub const CONTRACT_VERSION: i32 = 1;

/// Schema of the inbox.
pub const SCHEMA: &str = "inbox";

/// Group role of the consumers and of those who decide on their dead letters.
pub const CONSUMER_ROLE: &str = "outbox_consumer";

/// What a settlement can be, as `inbox.settlement.state` has it.
pub const STATES: &[&str] = &["claimed", "done", "rejected", "dropped", "parked", "dead", "replayed"];

/// SQLSTATE of a settlement of something that is not claimed by this transaction or token.
pub const NOT_CLAIMED: &str = "IB001";

/// SQLSTATE of a decision on a letter or key that is not there.
pub const NOT_THERE: &str = "IB002";

/// SQLSTATE of a decision that the state does not allow.
pub const NOT_ALLOWED: &str = "IB003";

/// The migrations in the order in which `up` runs; `down` runs in the reverse order. Run all of them in one
/// transaction: `inbox.contract_version()` is then seen only together with everything else.
pub const MIGRATIONS: &[Migration] = &[
    migration!(1, 1, "schema", "inbox/0001_schema"),
    migration!(2, 1, "settlement", "inbox/0002_settlement"),
    migration!(3, 1, "claim", "inbox/0003_claim"),
    migration!(4, 1, "park", "inbox/0004_park"),
    migration!(5, 1, "parking", "inbox/0005_parking"),
    migration!(6, 1, "dead_letter", "inbox/0006_dead_letter"),
    migration!(7, 1, "decide", "inbox/0007_decide"),
    migration!(8, 1, "upkeep", "inbox/0008_upkeep"),
    migration!(9, 1, "roles", "inbox/0009_roles"),
    migration!(10, 1, "reached", "inbox/0010_reached"),
];

/// Everything that installs the inbox: the statements of one transaction, without BEGIN and COMMIT.
pub fn up() -> String {
    MIGRATIONS.iter().map(|migration| migration.up).collect()
}

/// Everything that removes it again. It refuses while events wait in the park.
pub fn down() -> String {
    MIGRATIONS.iter().rev().map(|migration| migration.down).collect()
}
