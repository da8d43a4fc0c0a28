//! How much log the server keeps for the slot, and how much more it may.

/// `wal_status` of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalStatus {
    /// The log is there anyway.
    Reserved,
    /// More is kept than `max_wal_size`, because of slots.
    Extended,
    /// The server may throw log away at the next checkpoint that the slot still needs.
    Unreserved,
    /// It has.
    Lost,
}

impl WalStatus {
    /// Every status, from good to bad.
    pub const ALL: [WalStatus; 4] =
        [WalStatus::Reserved, WalStatus::Extended, WalStatus::Unreserved, WalStatus::Lost];

    /// PostgreSQL's word for it.
    pub fn name(self) -> &'static str {
        match self {
            WalStatus::Reserved => "reserved",
            WalStatus::Extended => "extended",
            WalStatus::Unreserved => "unreserved",
            WalStatus::Lost => "lost",
        }
    }

    /// The status that PostgreSQL has this word for.
    pub fn from_name(name: &str) -> Option<WalStatus> {
        WalStatus::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether the server keeps everything that the slot needs.
    pub fn is_sound(self) -> bool {
        match self {
            WalStatus::Reserved | WalStatus::Extended => true,
            WalStatus::Unreserved | WalStatus::Lost => false,
        }
    }
}

/// The slot's log at one look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotLog {
    /// Its status; `None` where there is no slot.
    pub status: Option<WalStatus>,
    /// Bytes that may still be written before the slot is in danger of being lost; negative once it is. `None` where
    /// the server keeps log without limit.
    pub safe_bytes: Option<i64>,
    /// `max_slot_wal_keep_size` in bytes; `None` is without limit.
    pub limit_bytes: Option<i64>,
}

impl SlotLog {
    /// What has become of it since `before`, where that is worth a line in the log: a warning that the slot is in
    /// danger, or the word that it no longer is.
    pub fn turned(&self, before: &SlotLog) -> Option<bool> {
        let sound = |log: &SlotLog| log.status.is_none_or(WalStatus::is_sound);
        (sound(self) != sound(before)).then(|| sound(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_postgres() {
        for status in WalStatus::ALL {
            assert_eq!(WalStatus::from_name(status.name()), Some(status));
        }
        assert_eq!(WalStatus::from_name("fine"), None);
    }

    #[test]
    fn only_a_turn_is_said() {
        let at = |status| SlotLog { status: Some(status), ..SlotLog::default() };
        let turn = |from, to| at(to).turned(&at(from));
        assert_eq!(turn(WalStatus::Reserved, WalStatus::Extended), None);
        assert_eq!(turn(WalStatus::Extended, WalStatus::Unreserved), Some(false));
        assert_eq!(turn(WalStatus::Unreserved, WalStatus::Lost), None);
        assert_eq!(turn(WalStatus::Unreserved, WalStatus::Reserved), Some(true));
        assert_eq!(at(WalStatus::Lost).turned(&SlotLog::default()), Some(false));
    }
}
