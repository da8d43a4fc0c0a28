//! What the router gets: whole frames, one after the other, as they came from the server.

use std::sync::Arc;

use super::allowance::Allowance;

/// Tag of a message that carries a frame.
pub(super) const COPY_DATA: u8 = b'd';

/// Tag and length.
pub(super) const HEADER: usize = 5;

/// Whole messages of the stream. Dropping it lets the reader read as many bytes more.
pub struct Chunk {
    bytes: Vec<u8>,
    used: usize,
    charge: usize,
    allowance: Arc<Allowance>,
}

impl Chunk {
    /// The first `used` bytes are whole messages; only the last one may be shorter than its header says.
    pub(super) fn new(bytes: Vec<u8>, used: usize, allowance: &Arc<Allowance>) -> Self {
        let charge = allowance.charge(bytes.len());
        Chunk { bytes, used, charge, allowance: Arc::clone(allowance) }
    }

    /// The frames in the order in which the server sent them.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        Frames { rest: &self.bytes[..self.used] }
    }

    /// Length of the frames with their headers.
    pub fn len_bytes(&self) -> usize {
        self.used
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.allowance.give_back(self.charge, std::mem::take(&mut self.bytes));
    }
}

impl std::fmt::Debug for Chunk {
    /// Says how much, never what: it holds payloads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} bytes)", self.used)
    }
}

/// The payload of one CopyData message, for [`CopyMessage::parse`](crate::pgoutput::CopyMessage::parse).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What was kept of it.
    pub payload: &'a [u8],
    /// How long it was. If it is longer than the payload, the frame was above
    /// [`max_row_bytes`](super::ReaderConfig::max_row_bytes), and only its beginning is here.
    pub full_len: usize,
}

impl Frame<'_> {
    /// Whether the payload is only the beginning.
    pub fn is_cut(&self) -> bool {
        self.full_len > self.payload.len()
    }
}

impl std::fmt::Debug for Frame<'_> {
    /// Says how much, never what: it holds a payload.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} of {} bytes)", self.payload.len(), self.full_len)
    }
}

struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        loop {
            let (header, rest) = self.rest.split_first_chunk::<HEADER>()?;
            let [tag, length @ ..] = *header;
            let full_len = (u32::from_be_bytes(length) as usize).saturating_sub(HEADER - 1);
            let (payload, rest) = rest.split_at(full_len.min(rest.len()));
            self.rest = rest;
            // Notices and changed settings may stand between the frames.
            if tag == COPY_DATA {
                return Some(Frame { payload, full_len });
            }
        }
    }
}
