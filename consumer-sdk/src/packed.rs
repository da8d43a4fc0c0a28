//! Key, value and headers of a record in one piece of memory: what is made on one thread and freed on another costs
//! most of all by the number of its pieces.

use std::fmt;

use outbox_schema::record::header;
use smallvec::SmallVec;

/// Part of the bytes; `None` is a missing key, a tombstone, a header without a value.
type Span = Option<(u32, u32)>;

/// Key, value and headers.
#[derive(Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    key: Span,
    value: Span,
    /// Names and values; more than the relay writes need an allocation.
    headers: SmallVec<[((u32, u32), Span); 4]>,
    /// The event's type, which is asked for again and again.
    event_type: Span,
}

/// Payloads are no matter for logs.
impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} bytes)", self.bytes.len())
    }
}

/// A header that is packed or was.
pub(crate) type Header<'h> = (&'h str, Option<&'h [u8]>);

impl Packed {
    /// Copies what it is given.
    pub(crate) fn new(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> Packed {
        let mut packed = Packed::default();
        packed.refill(key, value, headers);
        packed
    }

    /// Copies what it is given in the place of what it had.
    pub(crate) fn refill(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let named = headers.iter().map(|(name, value)| name.len() + length(*value));
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.reserve_exact(length(key) + length(value) + named.sum::<usize>());
        let key = key.map(|key| add(&mut bytes, key));
        let value = value.map(|value| add(&mut bytes, value));
        let headers: SmallVec<[((u32, u32), Span); 4]> = headers
            .iter()
            .map(|(name, value)| {
                (add(&mut bytes, name.as_bytes()), value.map(|value| add(&mut bytes, value)))
            })
            .collect();
        *self = Packed { bytes, key, value, headers, event_type: None };
        self.event_type = self.find(header::TYPE).filter(|span| self.text(*span).is_some());
    }

    /// Bytes that it has place for.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.key.map(|span| self.at(span))
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.value.map(|span| self.at(span))
    }

    /// The headers in their order.
    pub(crate) fn headers(&self) -> impl DoubleEndedIterator<Item = Header<'_>> {
        self.headers.iter().map(|(name, value)| {
            // It was text when it was packed.
            let name = std::str::from_utf8(self.at(*name)).unwrap_or_default();
            (name, value.map(|span| self.at(span)))
        })
    }

    /// The text of a header; `None` where it is missing or no text. The last of that name counts, as with Kafka's own
    /// clients.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.text(self.find(name)?)
    }

    /// The text of the header `type`.
    pub(crate) fn event_type(&self) -> Option<&str> {
        self.text(self.event_type?)
    }

    /// The last header of the name, where it has a value.
    fn find(&self, name: &str) -> Span {
        let (_, value) = self.headers.iter().rfind(|(found, _)| self.at(*found) == name.as_bytes())?;
        *value
    }

    fn text(&self, span: (u32, u32)) -> Option<&str> {
        std::str::from_utf8(self.at(span)).ok()
    }

    /// Bytes of all, and for each header what it takes beside them.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + 32 * self.headers.len()
    }

    fn at(&self, (from, to): (u32, u32)) -> &[u8] {
        &self.bytes[from as usize..to as usize]
    }
}

/// A record has less than 2 GiB: its length on the wire is a signed number of 32 bits.
fn add(bytes: &mut Vec<u8>, more: &[u8]) -> (u32, u32) {
    let place = |bytes: &Vec<u8>| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let from = place(bytes);
    bytes.extend_from_slice(more);
    (from, place(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out_as_it_was(
            key in any::<Option<Vec<u8>>>(),
            value in any::<Option<Vec<u8>>>(),
            headers in prop::collection::vec((".{0,8}", any::<Option<Vec<u8>>>()), 0..8),
        ) {
            let given: Vec<Header<'_>> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            let packed = Packed::new(key.as_deref(), value.as_deref(), &given);
            prop_assert_eq!(packed.key(), key.as_deref());
            prop_assert_eq!(packed.value(), value.as_deref());
            prop_assert_eq!(packed.headers().collect::<Vec<_>>(), given.clone());
            for (name, _) in &given {
                let last = given.iter().rfind(|(found, _)| found == name).and_then(|(_, value)| *value);
                prop_assert_eq!(packed.header(name), last.and_then(|value| std::str::from_utf8(value).ok()));
            }
        }
    }

    #[test]
    fn nothing_is_not_the_same_as_empty() {
        let packed = Packed::new(None, Some(b""), &[("a", None), ("a", Some(b"2"))]);
        assert_eq!((packed.key(), packed.value()), (None, Some(&b""[..])));
        assert_eq!((packed.header("a"), packed.header("b")), (Some("2"), None));
    }
}
