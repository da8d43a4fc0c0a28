//! One thing that was looked at: how it is, and, where it is not as it should be, what to do.

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// The relay runs with it, and one day it may cost events, order or time.
    Warning,
    /// The relay does not run with it, or loses what it promises.
    Error,
}

/// What a finding is about; the groups of the report, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The PostgreSQL server and the way to it.
    Server,
    /// What the relay's role may do.
    Rights,
    /// The outbox table.
    Table,
    /// The publication.
    Publication,
    /// The slot, the state record, and what a start would make of the two.
    Slot,
    /// The Kafka cluster.
    Kafka,
    /// The state topic and the topics of events.
    Topics,
    /// What the newest rows say of keys and sizes.
    Keys,
    /// Our clock and the server's.
    Clock,
}

impl Area {
    /// Every area, in the order of the report.
    pub const ALL: [Area; 9] = [
        Area::Server,
        Area::Rights,
        Area::Table,
        Area::Publication,
        Area::Slot,
        Area::Kafka,
        Area::Topics,
        Area::Keys,
        Area::Clock,
    ];

    /// The group's heading.
    pub fn heading(self) -> &'static str {
        match self {
            Area::Server => "PostgreSQL",
            Area::Rights => "Rights",
            Area::Table => "Table",
            Area::Publication => "Publication",
            Area::Slot => "Slot and state record",
            Area::Kafka => "Kafka",
            Area::Topics => "Topics",
            Area::Keys => "Keys and sizes",
            Area::Clock => "Clock",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that stays the same, for machines.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub area: Area,
    /// The thing itself: a setting, a topic, a column.
    pub subject: String,
    /// The lane, where lanes are listed and it is not found of all alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// What was seen, and what it means.
    pub seen: String,
    /// What to do; every warning and error has it.
    #[serde(rename = "do")]
    pub advice: Option<String>,
    /// The command, statement or line of configuration that does it.
    pub command: Option<String>,
}

/// A warning or an error that does not say yet what to do; only [`Trouble::mend`] makes it a finding.
#[derive(Debug)]
#[must_use]
pub struct Trouble(Finding);

impl Finding {
    fn new(
        severity: Severity,
        area: Area,
        code: &'static str,
        subject: impl Into<String>,
        seen: impl Into<String>,
    ) -> Finding {
        let (subject, seen) = (subject.into(), seen.into());
        Finding { code, severity, area, subject, lane: None, seen, advice: None, command: None }
    }

    /// As it should be.
    pub fn ok(
        area: Area,
        code: &'static str,
        subject: impl Into<String>,
        seen: impl Into<String>,
    ) -> Finding {
        Finding::new(Severity::Ok, area, code, subject, seen)
    }

    /// Worth knowing.
    pub fn note(
        area: Area,
        code: &'static str,
        subject: impl Into<String>,
        seen: impl Into<String>,
    ) -> Finding {
        Finding::new(Severity::Note, area, code, subject, seen)
    }

    /// May cost something one day.
    pub fn warning(
        area: Area,
        code: &'static str,
        subject: impl Into<String>,
        seen: impl Into<String>,
    ) -> Trouble {
        Trouble(Finding::new(Severity::Warning, area, code, subject, seen))
    }

    /// The relay does not run with it.
    pub fn error(
        area: Area,
        code: &'static str,
        subject: impl Into<String>,
        seen: impl Into<String>,
    ) -> Trouble {
        Trouble(Finding::new(Severity::Error, area, code, subject, seen))
    }

    /// What one may do about a note.
    pub fn advised(mut self, advice: impl Into<String>, command: impl Into<String>) -> Finding {
        (self.advice, self.command) = (Some(advice.into()), Some(command.into()));
        self
    }
}

impl Trouble {
    /// What to do, and the command that does it.
    pub fn mend(self, advice: impl Into<String>, command: impl Into<String>) -> Finding {
        self.0.advised(advice, command)
    }
}
