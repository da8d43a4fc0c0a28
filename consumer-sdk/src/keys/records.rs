//! The records that wait, in one store, linked by key.
//!
//! A place is used again as soon as its record is taken, the last first, so a busy scheduler allocates
//! nothing and works in warm memory; there is no deque per key that would have to be kept or made anew.

use super::Item;

/// No record.
pub(super) const NONE: u32 = u32::MAX;

/// The ends of a key's queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
}

impl Queue {
    pub(super) const EMPTY: Queue = Queue { head: NONE, tail: NONE };

    pub(super) fn is_empty(self) -> bool {
        self.head == NONE
    }
}

#[derive(Debug)]
struct Node<R> {
    /// `None` in a place that is free.
    item: Option<Item<R>>,
    /// Number of the record's lane.
    lane: u32,
    next: u32,
}

/// The store.
#[derive(Debug)]
pub(super) struct Records<R> {
    nodes: Vec<Node<R>>,
    free: u32,
}

impl<R> Records<R> {
    pub(super) fn new() -> Records<R> {
        Records { nodes: Vec::new(), free: NONE }
    }

    pub(super) fn push_back(&mut self, queue: &mut Queue, item: Item<R>, lane: u32) {
        let place = self.store(item, lane, NONE);
        match queue.tail {
            NONE => queue.head = place,
            tail => self.nodes[tail as usize].next = place,
        }
        queue.tail = place;
    }

    pub(super) fn push_front(&mut self, queue: &mut Queue, item: Item<R>, lane: u32) {
        let place = self.store(item, lane, queue.head);
        if queue.is_empty() {
            queue.tail = place;
        }
        queue.head = place;
    }

    /// Lane of the first record.
    pub(super) fn first_lane(&self, queue: Queue) -> Option<u32> {
        self.nodes.get(queue.head as usize).map(|node| node.lane)
    }

    /// The first record.
    pub(super) fn first(&self, queue: Queue) -> Option<&R> {
        self.nodes.get(queue.head as usize)?.item.as_ref().map(|item| &item.record)
    }

    pub(super) fn pop_front(&mut self, queue: &mut Queue) -> Option<Item<R>> {
        let place = queue.head;
        let node = self.nodes.get_mut(place as usize)?;
        let item = node.item.take();
        queue.head = node.next;
        if queue.is_empty() {
            queue.tail = NONE;
        }
        node.next = self.free;
        self.free = place;
        item
    }

    /// Drops a lane's records from a queue. Returns whether the first was among them.
    pub(super) fn drop_lane(&mut self, queue: &mut Queue, lane: u32) -> bool {
        let first = self.first_lane(*queue) == Some(lane);
        let mut kept = Queue::EMPTY;
        while let Some(of) = self.first_lane(*queue) {
            let item = self.pop_front(queue);
            if let Some(item) = item.filter(|_| of != lane) {
                self.push_back(&mut kept, item, of);
            }
        }
        *queue = kept;
        first
    }

    fn store(&mut self, item: Item<R>, lane: u32, next: u32) -> u32 {
        let node = Node { item: Some(item), lane, next };
        match self.nodes.get_mut(self.free as usize) {
            Some(free) => {
                let place = self.free;
                self.free = free.next;
                *free = node;
                place
            }
            None => {
                let place = u32::try_from(self.nodes.len()).ok().filter(|place| *place != NONE);
                self.nodes.push(node);
                place.expect("fewer than four billion records are held")
            }
        }
    }
}
