//! The relay's mistakes.

use clap::ValueEnum;
use outbox_relay::simulation;

/// A mistake: one of a session, which has the list of its own, or of what stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mutant {
    /// The session's.
    #[value(skip)]
    Session(simulation::Mutant),
    /// Rows are streamed before their transaction has committed (R15).
    RolledBackPublished,
    /// The state record is read before lane, slot and record are owned (R23).
    RecordReadEarly,
    /// A zombie's late state record is taken (R32).
    RecordNotFenced,
    /// A relay that waits in line does not wait for the lane (R23).
    LaneNotOwned,
    /// The loss of the SQL connection leaves the stream alone (R44).
    LossesApart,
    /// What a session had queued goes out behind its end.
    ProducerOutlives,
    /// Requests overtake each other: the producer is not idempotent.
    RequestsOvertake,
    /// Records behind a refused one go out (R17).
    RefusedPassed,
    /// A row settles before its entry is committed (R20).
    SettledUncommitted,
    /// A row settles before its entry is listed (R39).
    SettledUnlisted,
    /// A hold begins while earlier records are in flight.
    HeldBeforeTaken,
    /// A decision is written down before its records are acknowledged (R46).
    WrittenBeforeTaken,
    /// A decision lifts the hold and leaves what queued up behind (R46).
    FollowersLeft,
}

impl Mutant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Mutant> {
        let session = simulation::Mutant::ALL.iter().copied().map(Mutant::Session);
        session.chain(Mutant::value_variants().iter().copied())
    }

    /// The session's part of it.
    pub fn of_session(self) -> Option<simulation::Mutant> {
        match self {
            Mutant::Session(mutant) => Some(mutant),
            _ => None,
        }
    }

    /// Its name in the code, and the guard that it removes.
    pub fn says(self) -> (String, &'static str) {
        let guard = match self {
            Mutant::Session(mutant) => return (format!("{mutant:?}"), sessions(mutant)),
            Mutant::RolledBackPublished => "only committed transactions are streamed (R15)",
            Mutant::RecordReadEarly => "the record is read behind lane, slot and fence (R23)",
            Mutant::RecordNotFenced => "a zombie's record is refused by its producer's epoch (R32)",
            Mutant::LaneNotOwned => "the lane is owned before the slot is asked for (R23)",
            Mutant::LossesApart => "the loss of either connection ends both (R44)",
            Mutant::ProducerOutlives => "a producer never outlives its session",
            Mutant::RequestsOvertake => "idempotence keeps a partition's requests in order",
            Mutant::RefusedPassed => "gapless: behind a refused record nothing goes out (R17)",
            Mutant::SettledUncommitted => "a row settles when its entry is committed (R20)",
            Mutant::SettledUnlisted => "a row settles when an acknowledged record lists its entry (R39)",
            Mutant::HeldBeforeTaken => "a hold begins when all before it is on the broker",
            Mutant::WrittenBeforeTaken => {
                "a decision is written down when its records are acknowledged (R46)"
            }
            Mutant::FollowersLeft => "a hold is lifted when all behind it is published (R46)",
        };
        (format!("{self:?}"), guard)
    }
}

/// The guards that the session's mutants remove.
fn sessions(mutant: simulation::Mutant) -> &'static str {
    use simulation::Mutant as Of;
    match mutant {
        Of::ConfirmBeforeAck => "a row is settled by its delivery report (R1)",
        Of::HighestConfirmed => "only the head of the ledger moves the position (R2)",
        Of::SkippedAtPosition => "what commits below the position is published, at it is not (R4)",
        Of::KeepalivePastInFlight => "a keepalive enters behind all that is outstanding (R5)",
        Of::KeepaliveInTransaction => "a keepalive within a transaction confirms nothing (R5)",
        Of::FeedbackBeyondRecord => "feedback carries what is recorded (R33)",
        Of::SkippedUnseen => "the last published transaction is met before skipping is believed (R42)",
        Of::TimelineIgnored => "a new timeline has a new epoch, and cuts the record (R43)",
        Of::CeilingNotAwaited => "a ceiling is recorded before anything is sent beyond the old one (R43)",
        Of::PinNotAwaited => "a pin is recorded before the topic's first record (R40)",
        Of::FirstNotAwaited => {
            "nothing follows a producer's first record at a partition before its acknowledgement (R17)"
        }
        Of::WindowIgnored => "what is in flight is bounded",
        Of::FollowerPasses => "an event whose key is held queues up (R20)",
        Of::HeldFromStart => "a hold begins where its row is met in the stream",
    }
}
