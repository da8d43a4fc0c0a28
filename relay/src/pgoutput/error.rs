//! What was expected, and where.

/// A message could not be decoded. Offsets count from the first byte of the slice that was given to the
/// parser. Never holds the message's content, which may be a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended too early.
    #[error("expected {expected} ({needed} bytes) at offset {offset}, but only {left} bytes are left")]
    Short {
        /// What should have been there.
        expected: &'static str,
        /// Where it should have begun.
        offset: usize,
        /// How long it should have been.
        needed: usize,
        /// How many bytes were there.
        left: usize,
    },
    /// A text has no terminating zero byte.
    #[error("expected {expected} ended by a zero byte at offset {offset}, but there is no zero byte")]
    Unterminated {
        /// What should have been there.
        expected: &'static str,
        /// Where the text begins.
        offset: usize,
    },
    /// A text is not UTF-8 although the connection asked for it.
    #[error("expected {expected} in UTF-8 at offset {offset}")]
    NotUtf8 {
        /// What should have been there.
        expected: &'static str,
        /// Where the text begins.
        offset: usize,
    },
    /// A byte that says what follows has none of the known values.
    #[error("expected {expected} at offset {offset}, but found byte 0x{byte:02X} ({shown})", shown = shown(*.byte))]
    UnknownByte {
        /// What should have been there.
        expected: &'static str,
        /// Where it was found.
        offset: usize,
        /// What was found.
        byte: u8,
    },
    /// The message goes on after its end.
    #[error("expected the end of {expected} at offset {offset}, but {left} bytes are left over")]
    Leftover {
        /// What should have ended.
        expected: &'static str,
        /// Where it should have ended.
        offset: usize,
        /// How many bytes follow.
        left: usize,
    },
}

/// The byte as a person would read it.
fn shown(byte: u8) -> String {
    format!("`{}`", byte.escape_ascii())
}
