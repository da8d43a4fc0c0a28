//! What is seen of the clean-up.

use std::time::SystemTime;

/// Why rows that are old enough were left where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kept {
    /// No published snapshot is recorded yet.
    Unrecorded,
    /// A row is not published.
    Unpublished,
    /// A relay of the table is not there, or not that far, or its slot is in danger.
    Relay,
    /// A transaction that wrote into the bucket has not ended.
    Open,
    /// An entry of the quarantine needs the row.
    Quarantine,
    /// Not old enough after all.
    Young,
    /// Somebody held a lock for too long.
    Locked,
    /// Looking took too long.
    Slow,
    /// The database lacks the contract's clean-up.
    Contract,
    /// The role lacks a right.
    Right,
    /// Anything else that PostgreSQL or the network said.
    Failed,
}

impl Kept {
    /// Every reason, in the order of the metrics' series.
    pub const ALL: [Kept; 11] = [
        Kept::Unrecorded,
        Kept::Unpublished,
        Kept::Relay,
        Kept::Open,
        Kept::Quarantine,
        Kept::Young,
        Kept::Locked,
        Kept::Slow,
        Kept::Contract,
        Kept::Right,
        Kept::Failed,
    ];

    /// Its word in `/status`, in metric labels, and in the answer of `outbox.clean_bucket()`.
    pub fn name(self) -> &'static str {
        match self {
            Kept::Unrecorded => "unrecorded",
            Kept::Unpublished => "unpublished",
            Kept::Relay => "relay",
            Kept::Open => "open",
            Kept::Quarantine => "quarantine",
            Kept::Young => "young",
            Kept::Locked => "locked",
            Kept::Slow => "slow",
            Kept::Contract => "contract",
            Kept::Right => "right",
            Kept::Failed => "failed",
        }
    }

    /// The reason of this word.
    pub fn from_name(name: &str) -> Option<Kept> {
        Kept::ALL.into_iter().find(|kept| kept.name() == name)
    }

    /// Whether it passes by itself in the course of things, and is no news.
    pub fn is_usual(self) -> bool {
        match self {
            Kept::Unrecorded | Kept::Open | Kept::Young | Kept::Locked => true,
            Kept::Unpublished
            | Kept::Relay
            | Kept::Quarantine
            | Kept::Slow
            | Kept::Contract
            | Kept::Right
            | Kept::Failed => false,
        }
    }

    /// Whether rows may have been read, perhaps very many, before it was found.
    pub fn is_dear(self) -> bool {
        match self {
            Kept::Unpublished | Kept::Quarantine | Kept::Young | Kept::Locked | Kept::Slow => true,
            Kept::Unrecorded | Kept::Relay | Kept::Open | Kept::Contract | Kept::Right | Kept::Failed => {
                false
            }
        }
    }
}

/// What the newest look of the clean-up found.
#[derive(Debug, Clone, Default)]
pub struct CleanupLook {
    /// The mode's word; `None` before the first session streams.
    pub mode: Option<&'static str>,
    /// When it was.
    pub looked_at: Option<SystemTime>,
    /// When rows were removed last.
    pub cleaned_at: Option<SystemTime>,
    /// What came of it, in words.
    pub result: Option<String>,
    /// Buckets that are due and were left; with `delete` 1 where rows were.
    pub held_up: u64,
    /// The table with its indexes.
    pub table_bytes: Option<u64>,
    /// When about the oldest row was made.
    pub oldest_row: Option<SystemTime>,
}
