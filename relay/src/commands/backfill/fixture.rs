//! Settings for the tests of this module.

use crate::config::{OutboxSettings, Overrides, load};

/// The outbox of a relay with this more in its file.
pub fn outbox(more: &str) -> OutboxSettings {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("relay.toml");
    let text = format!(
        "name = \"orders\"\nsource.url = \"postgres://relay@localhost/shop\"\nkafka.brokers = \"k1:9092\"\n{more}"
    );
    std::fs::write(&file, text).expect("a file of ours");
    load(Some(&file), &Vec::new, Overrides::default()).expect("settings").into_first().outbox
}
