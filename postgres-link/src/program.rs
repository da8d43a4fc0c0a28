//! Which program speaks: its sentences are read by whoever operates it.

/// The program that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `outbox-relay`.
    Relay,
    /// A consumer built on `outbox-consumer`.
    Consumer,
}

impl Program {
    /// What its sentences call it; also the role in the URL that they give as an example.
    pub fn name(self) -> &'static str {
        match self {
            Program::Relay => "relay",
            Program::Consumer => "consumer",
        }
    }
}
