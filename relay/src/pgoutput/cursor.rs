//! A reading position in a message.

use super::error::DecodeError;

/// Reads big-endian values front to back. No read goes beyond the slice; each names what it expects, so
/// that an error can say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    /// Length of the whole message, from which offsets follow.
    total: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Cursor { rest: message, total: message.len() }
    }

    /// Where the next read begins.
    pub(super) fn offset(&self) -> usize {
        self.total - self.rest.len()
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    #[inline]
    pub(super) fn take(&mut self, count: usize, expected: &'static str) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.short(count, expected));
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.short(N, expected));
        };
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(expected).map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self, expected: &'static str) -> Result<u16, DecodeError> {
        self.array(expected).map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        self.array(expected).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn i32(&mut self, expected: &'static str) -> Result<i32, DecodeError> {
        self.array(expected).map(i32::from_be_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        self.array(expected).map(u64::from_be_bytes)
    }

    #[inline]
    pub(super) fn i64(&mut self, expected: &'static str) -> Result<i64, DecodeError> {
        self.array(expected).map(i64::from_be_bytes)
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self, expected: &'static str) -> Result<&'a str, DecodeError> {
        let offset = self.offset();
        let Some(end) = self.rest.iter().position(|&byte| byte == 0) else {
            return Err(DecodeError::Unterminated { expected, offset });
        };
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8 { expected, offset })
    }

    /// Bytes preceded by their length.
    #[inline]
    pub(super) fn counted(&mut self, expected: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u32(expected)?;
        // A length beyond the address space is longer than any slice, so `take` refuses it.
        self.take(usize::try_from(length).unwrap_or(usize::MAX), expected)
    }

    /// Nothing may follow.
    #[inline]
    pub(super) fn end(&self, expected: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Leftover { expected, offset: self.offset(), left: self.rest.len() })
    }

    #[cold]
    fn short(&self, needed: usize, expected: &'static str) -> DecodeError {
        DecodeError::Short { expected, offset: self.offset(), needed, left: self.rest.len() }
    }
}
