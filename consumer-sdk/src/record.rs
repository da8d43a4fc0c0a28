//! A record as it was read: its bytes, and what its headers say of the event.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use outbox_schema::record::header;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::packed::{Header, Packed};

/// A record that was read and is not settled.
#[derive(Debug)]
pub(crate) struct Record {
    body: Arc<Body>,
    pub(crate) tries: Tries,
    /// Which records it may run together with, and how many of them; `None` where it runs alone.
    pub(crate) company: Option<Company>,
    pub(crate) known: Known,
}

/// What its type is known by, so that it is looked up once; [`Known::UNKNOWN`] where it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its handler's place among all.
    pub(crate) handler: u32,
    /// The place of what is counted of its topic and type.
    pub(crate) series: u32,
}

impl Known {
    /// Nothing.
    pub(crate) const UNKNOWN: Known = Known { handler: u32::MAX, series: u32::MAX };
}

/// Records of the same company may share a transaction, or a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Company {
    /// 0 for transactional handlers, the highest of a handler for those without a transaction; else the number of a batch handler, or
    /// of a part of either of the first.
    pub(crate) number: u32,
    /// Most records of one transaction, or of one task.
    most: u32,
}

impl Company {
    pub(crate) fn new(number: u32, most: usize) -> Company {
        Company { number, most: u32::try_from(most).unwrap_or(u32::MAX) }
    }

    /// Most records of one run together.
    pub(crate) fn most(self) -> usize {
        self.most as usize
    }

    /// Handlers that have no transaction.
    pub(crate) const LIGHT: Company = Company { number: u32::MAX >> 1, most: 256 };

    /// Whether their handlers have no transaction.
    pub(crate) fn is_light(self) -> bool {
        self.number == Company::LIGHT.number
    }
}

/// What came: the bytes of the topic. Shared with the event that a handler gets.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) topic: Arc<str>,
    /// What the consumer that reads it is known by.
    pub(crate) scope: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Unix milliseconds; 0 where the record has none.
    pub(crate) timestamp: i64,
    /// The event's id; `None` where the header is missing or is no UUID.
    pub(crate) id: Option<Uuid>,
    pub(crate) packed: Packed,
}

/// The attempts of a record so far, in this process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    /// Failed attempts that count.
    pub(crate) counted: u32,
    /// Failures in a row that do not.
    pub(crate) uncounted: u32,
    /// When the first attempt failed, since the consumer began.
    pub(crate) first_failure: Option<Duration>,
    /// It has halted its partition.
    pub(crate) halts: bool,
}

/// What a record counts with beside its own bytes.
const OVERHEAD: usize = 128;

impl Record {
    pub(crate) fn new(body: Body, tries: Tries) -> Record {
        Record::of(Arc::new(body), tries)
    }

    fn of(body: Arc<Body>, tries: Tries) -> Record {
        Record { body, tries, company: None, known: Known::UNKNOWN }
    }

    /// What the client has read, in a piece of memory that a former record has left, where there is one.
    pub(crate) fn read(
        message: &BorrowedMessage<'_>,
        topic: &Arc<str>,
        scope: &Arc<str>,
        memory: &mut Memory,
    ) -> Record {
        let mut headers: SmallVec<[Header<'_>; 8]> = SmallVec::new();
        if let Some(found) = message.headers() {
            headers.extend(found.iter().map(|header| (header.key, header.value)));
        }
        let mut body = memory.take().unwrap_or_else(|| Arc::new(Body::empty(topic, scope)));
        if let Some(body) = Arc::get_mut(&mut body) {
            if !Arc::ptr_eq(&body.topic, topic) {
                body.topic = topic.clone();
            }
            body.partition = message.partition();
            body.offset = message.offset();
            body.timestamp = message.timestamp().to_millis().unwrap_or(0);
            body.packed.refill(message.key(), message.payload(), &headers);
            body.id = body.packed.header(header::ID).and_then(|text| Uuid::parse_str(text).ok());
        }
        Record::of(body, Tries::default())
    }

    /// What came.
    pub(crate) fn body(&self) -> &Arc<Body> {
        &self.body
    }
}

impl Deref for Record {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.body
    }
}

/// Memory of records that are settled, for those that come: the client's thread makes and frees hundreds of thousands
/// a second. Of one consumer.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<Arc<Body>>);

impl Memory {
    /// Most that are kept.
    const MOST: usize = 2048;
    /// Bytes of the largest that is.
    const LARGEST: usize = 2048;

    /// Keeps a record's memory, unless somebody looks at it still.
    pub(crate) fn keep(&mut self, record: Record) {
        let Record { mut body, .. } = record;
        if self.0.len() < Memory::MOST
            && Arc::get_mut(&mut body).is_some_and(|body| body.packed.capacity() <= Memory::LARGEST)
        {
            self.0.push(body);
        }
    }

    fn take(&mut self) -> Option<Arc<Body>> {
        self.0.pop()
    }
}

impl Body {
    fn empty(topic: &Arc<str>, scope: &Arc<str>) -> Body {
        let (topic, scope, packed) = (topic.clone(), scope.clone(), Packed::default());
        Body { topic, scope, partition: 0, offset: 0, timestamp: 0, id: None, packed }
    }

    /// Bytes that it is counted with.
    pub(crate) fn bytes(&self) -> usize {
        OVERHEAD + self.packed.len()
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.packed.key()
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.packed.value()
    }

    /// The text of a header; `None` where it is missing or no text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.packed.header(name)
    }

    /// What handlers are registered for.
    pub(crate) fn event_type(&self) -> Option<&str> {
        self.packed.event_type()
    }

    /// When the event was made, where its id does not say it. Every copy carries the same.
    pub(crate) fn created_at(&self) -> Option<jiff::Timestamp> {
        self.header(header::CREATED_AT)?.parse().ok()
    }

    /// Where it stands, for a log.
    pub(crate) fn place(&self) -> String {
        format!("{}[{}]@{}", self.topic, self.partition, self.offset)
    }

    /// Hash of the id, the same in every process: how the crash journal names a record.
    pub(crate) fn journal_id(&self) -> u32 {
        // As FNV-1a, by words: stable, and no more is asked of it.
        let id = self.id.map_or(0, |id| id.as_u128());
        let words = (0..4_u32).map(|word| (id >> (word * 32)) as u32);
        words.fold(0x811c_9dc5_u32, |hash, word| (hash ^ word).wrapping_mul(0x0100_0193).rotate_left(13))
    }
}
