//! The feedback message.

use crate::lsn::Lsn;
use crate::pgoutput::PgTime;

/// How far this side has come. The server frees WAL below `flush` and never sends it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Received.
    pub write: Lsn,
    /// Durable here: nothing below is asked for again. `0/0` says nothing.
    pub flush: Lsn,
    /// Applied.
    pub apply: Lsn,
    /// This side's clock.
    pub time: PgTime,
    /// Asks the server for a keepalive at once.
    pub reply_requested: bool,
}

/// Length of the encoded message: tag, length, kind, three positions, time, flag.
pub(super) const STATUS_BYTES: usize = 1 + 4 + 1 + 3 * 8 + 8 + 1;

impl Status {
    /// The "Standby status update" in its CopyData message.
    pub(super) fn encode(&self) -> [u8; STATUS_BYTES] {
        let mut message = [0; STATUS_BYTES];
        message[0] = b'd';
        // The length counts itself but not the tag.
        message[1..5].copy_from_slice(&(STATUS_BYTES as u32 - 1).to_be_bytes());
        message[5] = b'r';
        message[6..14].copy_from_slice(&self.write.0.to_be_bytes());
        message[14..22].copy_from_slice(&self.flush.0.to_be_bytes());
        message[22..30].copy_from_slice(&self.apply.0.to_be_bytes());
        message[30..38].copy_from_slice(&self.time.0.to_be_bytes());
        message[38] = u8::from(self.reply_requested);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_protocol_has_them() {
        let status = Status {
            write: Lsn(0x0102_0304_0506_0708),
            flush: Lsn(2),
            apply: Lsn(3),
            time: PgTime(-1),
            reply_requested: true,
        };
        let expected = [
            &b"d\0\0\0\x26r\x01\x02\x03\x04\x05\x06\x07\x08"[..],
            &2u64.to_be_bytes(),
            &3u64.to_be_bytes(),
            &[0xFF; 8],
            &[1],
        ];
        assert_eq!(status.encode().as_slice(), expected.concat());
    }
}
