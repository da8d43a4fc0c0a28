//! The bound on what is handed over and not yet acknowledged, in records and in bytes. Full means that
//! the router stops, then the reader, then the server: nothing buffers beyond it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Counts what is in flight; the router waits here when it is full.
#[derive(Debug)]
pub struct Window {
    max_records: u64,
    max_bytes: u64,
    records: AtomicU64,
    bytes: AtomicU64,
    waiting: AtomicBool,
    lock: Mutex<()>,
    room: Condvar,
}

impl Window {
    /// A window of so many records and so many bytes.
    pub fn new(max_records: usize, max_bytes: usize) -> Window {
        Window {
            max_records: max_records as u64,
            max_bytes: max_bytes as u64,
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            lock: Mutex::new(()),
            room: Condvar::new(),
        }
    }

    /// Takes room for one record; false if there is none. A record larger than the whole window passes
    /// when nothing else is in flight, so that it cannot stand still for ever.
    pub fn take(&self, bytes: usize) -> bool {
        if self.fits(bytes) {
            self.records.fetch_add(1, SeqCst);
            self.bytes.fetch_add(bytes as u64, SeqCst);
            return true;
        }
        false
    }

    fn fits(&self, bytes: usize) -> bool {
        let (records, held) = (self.records.load(SeqCst), self.bytes.load(SeqCst));
        records == 0 || records < self.max_records && held + bytes as u64 <= self.max_bytes
    }

    /// Gives one record's room back.
    pub fn give_back(&self, bytes: usize) {
        self.records.fetch_sub(1, SeqCst);
        self.bytes.fetch_sub(bytes as u64, SeqCst);
        // SeqCst on both sides: either the router sees the room it looked for after it had said that it
        // waits, or we see that it waits.
        if self.waiting.load(SeqCst) && self.three_quarters() {
            let _guard = self.lock.lock();
            self.room.notify_all();
        }
    }

    /// Waits until there may be room for so many bytes or `limit` has passed; the caller looks again either
    /// way.
    pub fn wait(&self, bytes: usize, limit: Duration) {
        let mut guard = self.lock.lock();
        self.waiting.store(true, SeqCst);
        if !self.fits(bytes) {
            self.room.wait_for(&mut guard, limit);
        }
        self.waiting.store(false, SeqCst);
    }

    /// Waking the router for every single report would cost two context switches an event.
    fn three_quarters(&self) -> bool {
        self.records.load(SeqCst) * 4 <= self.max_records * 3
            && self.bytes.load(SeqCst) * 4 <= self.max_bytes * 3
    }

    /// Records in flight.
    pub fn records(&self) -> u64 {
        self.records.load(SeqCst)
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_in_records_and_full_in_bytes() {
        let window = Window::new(2, 100);
        assert!(window.take(10) && window.take(10));
        assert!(!window.take(10), "a third record");
        window.give_back(10);
        assert!(!window.take(91), "91 bytes beside 10");
        assert!(window.take(90));
        assert_eq!((window.records(), window.bytes()), (2, 100));
    }

    #[test]
    fn a_record_above_the_whole_window_travels_alone() {
        let window = Window::new(10, 100);
        assert!(window.take(1_000));
        assert!(!window.take(1));
        window.give_back(1_000);
        assert!(window.take(1) && !window.take(1_000));
    }

    #[test]
    fn a_waiting_router_is_woken_by_room() {
        let window = std::sync::Arc::new(Window::new(1, 100));
        assert!(window.take(1));
        let other = window.clone();
        let waker = std::thread::spawn(move || {
            while !other.waiting.load(SeqCst) {
                std::thread::yield_now();
            }
            other.give_back(1);
        });
        let before = std::time::Instant::now();
        window.wait(1, Duration::from_secs(60));
        assert!(before.elapsed() < Duration::from_secs(30));
        assert!(window.take(1));
        waker.join().unwrap();
    }
}
