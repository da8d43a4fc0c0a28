//! Cutting bytes into whole frames. No I/O: bytes come in as they like, whole messages go out.

use std::sync::Arc;

use super::allowance::Allowance;
use super::chunk::{COPY_DATA, Chunk, HEADER};
use super::end::FramingError;
use super::pace::Pace;
use crate::lsn::Lsn;
use crate::pgoutput::{CopyMessage, Message};

/// What is kept of a row that is longer than allowed: enough for its keys and for saying what it was.
const KEPT_OF_OVERSIZED: usize = 64 * 1024;

/// Longest message other than CopyData; the longest real one is an error with its context.
const LONGEST_OTHER: usize = 1024 * 1024;

/// Gathers bytes in a buffer and hands it on, without copying, once it holds whole messages enough.
#[derive(Debug)]
pub(super) struct Assembler {
    buffer: Vec<u8>,
    /// End of what has come.
    filled: usize,
    /// End of the last whole message.
    whole: usize,
    /// Bytes of an oversized row that are still to come and are not kept.
    skip: usize,
    max_row_bytes: usize,
    allowance: Arc<Allowance>,
}

/// What passed by while messages were found whole.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Newest position.
    pub(super) position: Lsn,
    /// The server wants an answer.
    pub(super) reply_requested: bool,
    /// How far the server is ahead.
    pub(super) pace: Pace,
}

/// What is to be done after bytes came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Read on, or cut if nothing more comes for now.
    More,
    /// Cut; then [`advance`](Assembler::advance) by nothing, since more may be found.
    Cut,
    /// The server ends the stream; with its ErrorResponse, if that is what it sent.
    End(Option<Vec<u8>>),
}

impl Assembler {
    pub(super) fn new(max_row_bytes: usize, allowance: &Arc<Allowance>) -> Self {
        Assembler {
            buffer: allowance.buffer(0),
            filled: 0,
            whole: 0,
            skip: 0,
            max_row_bytes,
            allowance: Arc::clone(allowance),
        }
    }

    /// What the next chunk may count for.
    pub(super) fn cost(&self) -> usize {
        self.buffer.len()
    }

    /// Where the next bytes go; never empty after [`Progress::More`].
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Takes in `count` bytes that were put into [`space`](Self::space), and looks at every message that
    /// has become whole.
    ///
    /// # Errors
    ///
    /// The bytes are not those of a replication stream; nothing after them can be trusted.
    pub(super) fn advance(&mut self, count: usize, seen: &mut Seen) -> Result<Progress, FramingError> {
        self.take_in(count);
        loop {
            let pending = &self.buffer[self.whole..self.filled];
            let Some((tag, total)) = header(pending)? else { break };
            let oversized = tag == COPY_DATA && total - HEADER > self.max_row_bytes;
            let kept = if oversized { HEADER + KEPT_OF_OVERSIZED.min(self.max_row_bytes) } else { total };
            if pending.len() < kept {
                return Ok(self.make_space(kept));
            }
            let message = &pending[..kept];
            match tag {
                COPY_DATA => seen.look(&message[HEADER..]),
                b'E' => return Ok(Progress::End(Some(message.to_vec()))),
                b'c' | b'C' => return Ok(Progress::End(None)),
                // Notices and changed settings, which the chunk's reader passes over.
                b'N' | b'S' => {}
                tag => return Err(FramingError::Tag { tag }),
            }
            self.whole += kept;
            if oversized {
                self.leave_out(total - kept);
                return Ok(Progress::Cut);
            }
        }
        Ok(self.make_space(HEADER))
    }

    /// The whole messages gathered so far, if there are any.
    pub(super) fn cut(&mut self) -> Option<Chunk> {
        if self.whole == 0 {
            return None;
        }
        let whole = std::mem::take(&mut self.whole);
        let partial = self.filled - whole;
        let bytes = if whole <= self.buffer.len() / 4 {
            // A few messages do not take a whole buffer with them.
            let bytes = self.buffer[..whole].to_vec();
            self.buffer.copy_within(whole..self.filled, 0);
            bytes
        } else {
            let mut next = self.allowance.buffer(partial);
            next[..partial].copy_from_slice(&self.buffer[whole..self.filled]);
            std::mem::replace(&mut self.buffer, next)
        };
        self.filled = partial;
        Some(Chunk::new(bytes, whole, &self.allowance))
    }

    /// Counts new bytes as filled, without those that are not kept.
    fn take_in(&mut self, count: usize) {
        let skipped = self.skip.min(count);
        self.skip -= skipped;
        self.buffer.copy_within(self.filled + skipped..self.filled + count, self.filled);
        self.filled += count - skipped;
    }

    /// Leaves out the `rest` of the row whose kept part has just become whole: what is here at once, what
    /// is still to come when it comes. The row is the last of its chunk, which is how its reader sees that
    /// it was cut.
    fn leave_out(&mut self, rest: usize) {
        let here = rest.min(self.filled - self.whole);
        self.buffer.copy_within(self.whole + here..self.filled, self.whole);
        self.filled -= here;
        self.skip = rest - here;
    }

    /// Makes sure that a partial message of `length` bytes can become whole.
    fn make_space(&mut self, length: usize) -> Progress {
        if self.whole + length <= self.buffer.len() && self.filled < self.buffer.len() {
            return Progress::More;
        }
        if self.whole > 0 {
            return Progress::Cut;
        }
        self.buffer.resize(length, 0);
        Progress::More
    }
}

/// Tag of the message at the front, and its length with the header; `None` if the header is not there yet.
fn header(pending: &[u8]) -> Result<Option<(u8, usize)>, FramingError> {
    let Some(([tag, length @ ..], _)) = pending.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    let longest = if *tag == COPY_DATA { i32::MAX as usize } else { LONGEST_OTHER };
    // The length counts itself but not the tag.
    if length < 4 || length as usize > longest {
        return Err(FramingError::Length { tag: *tag, length });
    }
    Ok(Some((*tag, length as usize + 1)))
}

impl Seen {
    /// Looks at a frame. One that cannot be decoded is the router's to report: it decodes all of them.
    fn look(&mut self, payload: &[u8]) {
        match CopyMessage::parse(payload) {
            Ok(CopyMessage::XLogData { wal_start, wal_end, send_time, body }) => {
                self.position = self.position.max(wal_start).max(wal_end);
                if matches!(body.first(), Some(b'B' | b'C'))
                    && let Ok(Message::Begin { commit_time, .. } | Message::Commit { commit_time, .. }) =
                        Message::parse(body)
                {
                    self.pace.committed(commit_time);
                }
                self.pace.sent(send_time);
            }
            Ok(CopyMessage::Keepalive { wal_end, reply_requested, .. }) => {
                self.position = self.position.max(wal_end);
                self.reply_requested |= reply_requested;
            }
            Err(_) => {}
        }
    }
}
