//! The bound on what is handed over and not yet acknowledged, in records and in bytes. Full means that
//! the router stops, then the reader, then the server: nothing buffers beyond it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::ledger::OPAQUE_BITS;

/// Counts what is in flight; the router waits here when it is full.
#[derive(Debug)]
pub struct Window {
    max: Load,
    /// Records and bytes in one word, so that taking and giving back cost one atomic operation each.
    load: AtomicU64,
    waiting: AtomicBool,
    waited: AtomicBool,
    lock: Mutex<()>,
    room: Condvar,
}

/// What a record counts for. A charge in bytes is rounded up to [`UNIT`]s, so that it fits into what librdkafka
/// carries for us beside the ledger's part, and need not be worked out again when the record is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge(u32);

/// Bytes of one unit.
const UNIT: usize = 16;

/// Bits of a charge: 4 GiB, sixteen times the largest record that can be configured.
const CHARGE_BITS: u32 = 28;

impl Charge {
    /// Of so many bytes.
    pub fn of(bytes: usize) -> Charge {
        Charge(bytes.div_ceil(UNIT).min((1 << CHARGE_BITS) - 1) as u32)
    }

    /// In bytes, as it counts.
    pub fn bytes(self) -> usize {
        self.0 as usize * UNIT
    }

    /// Both in one word: the ledger's opaque below, the charge above.
    pub fn beside(self, opaque: usize) -> usize {
        opaque | (self.0 as usize) << OPAQUE_BITS
    }

    /// Opaque and charge of such a word.
    pub fn apart(word: usize) -> (usize, Charge) {
        (word & ((1 << OPAQUE_BITS) - 1), Charge((word >> OPAQUE_BITS) as u32))
    }
}

const _: () = assert!(OPAQUE_BITS + CHARGE_BITS <= usize::BITS, "an opaque and a charge are one word");

/// So many records and so many units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    records: u64,
    units: u64,
}

/// Bits of the units in a word: with 24 bits of records, 16 TiB.
const UNIT_BITS: u32 = 40;

impl Load {
    fn of_word(word: u64) -> Load {
        Load { records: word >> UNIT_BITS, units: word & ((1 << UNIT_BITS) - 1) }
    }

    fn word(self) -> u64 {
        self.records << UNIT_BITS | self.units
    }

    /// With one record more.
    pub fn and(self, charge: Charge) -> Load {
        Load { records: self.records + 1, units: self.units + u64::from(charge.0) }
    }

    /// Records in it.
    pub fn records(self) -> u64 {
        self.records
    }
}

impl Window {
    /// A window of so many records, at most 16 million, and so many bytes.
    pub fn new(max_records: usize, max_bytes: usize) -> Window {
        Window {
            max: Load { records: max_records as u64, units: (max_bytes / UNIT) as u64 },
            load: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            waited: AtomicBool::new(false),
            lock: Mutex::new(()),
            room: Condvar::new(),
        }
    }

    /// Takes room for one record; false if there is none. A record larger than the whole window passes
    /// when nothing else is in flight, so that it cannot stand still for ever. Only one thread takes.
    pub fn take(&self, charge: Charge) -> bool {
        let fits = self.fits(charge);
        if fits {
            self.load.fetch_add(Load::default().and(charge).word(), SeqCst);
        }
        fits
    }

    fn fits(&self, charge: Charge) -> bool {
        let now = self.now();
        let then = now.and(charge);
        now.records == 0 || then.records <= self.max.records && then.units <= self.max.units
    }

    fn now(&self) -> Load {
        Load::of_word(self.load.load(SeqCst))
    }

    /// Gives the room of records back.
    pub fn give_back(&self, room: Load) {
        self.load.fetch_sub(room.word(), SeqCst);
        // SeqCst on both sides: either the router sees the room it looked for after it had said that it
        // waits, or we see that it waits.
        if self.waiting.load(SeqCst) && self.has_much_room() {
            let _guard = self.lock.lock();
            self.room.notify_all();
        }
    }

    /// Waits until there may be room for a record or `limit` has passed; the caller looks again either
    /// way.
    pub fn wait(&self, charge: Charge, limit: Duration) {
        let mut guard = self.lock.lock();
        self.waiting.store(true, SeqCst);
        self.waited.store(true, SeqCst);
        if !self.fits(charge) {
            self.room.wait_for(&mut guard, limit);
        }
        self.waiting.store(false, SeqCst);
    }

    /// Waking the router for every single report would cost two context switches an event.
    fn has_much_room(&self) -> bool {
        let now = self.now();
        now.records * 4 <= self.max.records * LOW && now.units * 4 <= self.max.units * LOW
    }

    /// Whether the router has waited for room since this was asked last.
    pub fn was_waited_for(&self) -> bool {
        self.waited.swap(false, SeqCst)
    }

    /// Whether so little is in flight that nobody will wait for room soon.
    pub fn is_nearly_empty(&self) -> bool {
        let now = self.now();
        now.records * 16 <= self.max.records && now.units * 16 <= self.max.units
    }

    /// Most records in flight.
    pub fn max_records(&self) -> u64 {
        self.max.records
    }

    /// Records in flight.
    pub fn records(&self) -> u64 {
        self.now().records
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> u64 {
        self.now().units * UNIT as u64
    }
}

/// Quarters of the window that are full when the router is woken.
const LOW: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: Charge = Charge(10);

    fn one(charge: Charge) -> Load {
        Load::default().and(charge)
    }

    #[test]
    fn full_in_records_and_full_in_bytes() {
        let window = Window::new(2, 100 * UNIT);
        assert!(window.take(TEN) && window.take(TEN));
        assert!(!window.take(TEN), "a third record");
        window.give_back(one(TEN));
        assert!(!window.take(Charge(91)), "91 units beside 10");
        assert!(window.take(Charge(90)));
        assert_eq!((window.records(), window.bytes()), (2, 100 * UNIT as u64));
        window.give_back(one(TEN).and(Charge(90)));
        assert_eq!((window.records(), window.bytes()), (0, 0));
    }

    #[test]
    fn a_wait_for_room_is_told_once() {
        let window = Window::new(1, 100 * UNIT);
        assert!(window.take(TEN) && !window.was_waited_for());
        window.wait(TEN, Duration::from_millis(1));
        assert!(window.was_waited_for() && !window.was_waited_for());
    }

    #[test]
    fn nearly_empty_is_a_sixteenth_in_records_and_in_bytes() {
        let window = Window::new(32, 1_600 * UNIT);
        assert!(window.is_nearly_empty());
        assert!(window.take(TEN) && window.take(TEN) && window.is_nearly_empty());
        assert!(window.take(TEN) && !window.is_nearly_empty(), "three of 32 records");
        window.give_back(one(TEN).and(TEN));
        assert!(window.is_nearly_empty());
        assert!(window.take(Charge(91)) && !window.is_nearly_empty(), "101 of 1600 units");
    }

    #[test]
    fn a_record_above_the_whole_window_travels_alone() {
        let window = Window::new(10, 100 * UNIT);
        assert!(window.take(Charge(1_000)));
        assert!(!window.take(Charge(1)));
        window.give_back(one(Charge(1_000)));
        assert!(window.take(Charge(1)) && !window.take(Charge(1_000)));
    }

    #[test]
    fn a_waiting_router_is_woken_by_room() {
        let window = std::sync::Arc::new(Window::new(1, 100 * UNIT));
        assert!(window.take(TEN));
        let other = window.clone();
        let waker = std::thread::spawn(move || {
            while !other.waiting.load(SeqCst) {
                std::thread::yield_now();
            }
            other.give_back(one(TEN));
        });
        let before = std::time::Instant::now();
        window.wait(TEN, Duration::from_secs(60));
        assert!(before.elapsed() < Duration::from_secs(30));
        assert!(window.take(TEN));
        waker.join().unwrap();
    }

    proptest! {
        #[test]
        fn an_opaque_and_a_charge_come_back_as_they_went(
            opaque in 0..1usize << OPAQUE_BITS, bytes in 0..1usize << 33,
        ) {
            let charge = Charge::of(bytes);
            prop_assert_eq!(Charge::apart(charge.beside(opaque)), (opaque, charge));
            let rounded = charge.0 as usize * UNIT;
            prop_assert!(rounded >= bytes.min(((1 << CHARGE_BITS) - 1) * UNIT) && rounded < bytes + UNIT);
        }
    }
}
