//! Settings for the tests of this module.

use crate::config::{Overrides, Settings, load};

/// A relay called orders with the contract's table.
pub fn settings() -> Settings {
    let env = || {
        [
            ("OUTBOX_RELAY_NAME", "orders"),
            ("OUTBOX_RELAY_SOURCE_URL", "postgres://relay@localhost/shop"),
            ("OUTBOX_RELAY_KAFKA_BROKERS", "k1:9092"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into()
    };
    load(None, &env, Overrides::default()).expect("settings").into_first()
}

/// The codes of what is not as it should be.
pub fn codes(findings: &[super::finding::Finding]) -> Vec<&'static str> {
    let wrong = findings.iter().filter(|finding| finding.severity > super::finding::Severity::Ok);
    wrong.map(|finding| finding.code).collect()
}
