//! What is measured, and how often.

use serde::{Deserialize, Serialize};

/// One measurement from its first to its last run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Pairs of drains per shape.
    pub pairs: usize,
    /// Backlogs to drain.
    pub shapes: Vec<Shape>,
    /// Runs of the open loop; 0 leaves latency out.
    pub latency_runs: usize,
    /// Length of one such run in seconds.
    pub latency_seconds: u64,
    /// Transactions a second in it.
    pub latency_rate: u64,
    /// Seeds the payloads.
    pub seed: u64,
    /// PostgreSQL's major version.
    pub postgres: u32,
    /// Keys of the relay's configuration beyond its defaults, as `key=value`.
    pub relay_keys: Vec<String>,
    /// A file that is locked during every measured run, on a machine that others use in between.
    pub lock: Option<std::path::PathBuf>,
}

/// One backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Rows per transaction.
    pub per_transaction: u64,
    /// Rows in all.
    pub rows: u64,
}

impl Shape {
    /// Reads `rows per transaction:rows`, such as `100:1000000`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Shape, String> {
        let numbers =
            text.split_once(':').and_then(|(per, rows)| Some((per.parse().ok()?, rows.parse().ok()?)));
        match numbers {
            Some((per_transaction @ 1.., rows)) if rows >= per_transaction && rows % per_transaction == 0 => {
                Ok(Shape { per_transaction, rows })
            }
            _ => Err(format!(
                "{text}: expected rows per transaction and a multiple of it, such as 100:1000000"
            )),
        }
    }

    /// Transactions in all.
    pub fn transactions(&self) -> u64 {
        self.rows / self.per_transaction
    }

    /// How it is called in tables.
    pub fn name(&self) -> String {
        match self.per_transaction {
            1 => "1 row per transaction".into(),
            rows => format!("{rows} rows per transaction"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_whole_transactions() {
        assert_eq!(Shape::parse("100:1000"), Ok(Shape { per_transaction: 100, rows: 1000 }));
        for wrong in ["", "100", "0:10", "100:50", "100:150", "a:b"] {
            assert!(Shape::parse(wrong).is_err(), "{wrong}");
        }
    }
}
