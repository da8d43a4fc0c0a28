//! The holds by random schedules: few keys, bad rows, decisions, and sessions that end at any step. The model of
//! what has to be true is in [`world`]: it looks at the log, the table, the record and the broker, and knows nothing
//! of holds. What sends and writes in them is a copy of the router's and the keeper's order, without their I/O; the
//! real ones are held by the server tests.

mod session;
mod world;

use proptest::prelude::*;

use self::session::{Over, Session};
use self::world::{Event, KEYS, World};
use crate::config::Policy;

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Event>),
    WriteElsewhere,
    Decide { which: usize, discard: bool },
    Mend { which: usize },
    Read { items: u8 },
    Acknowledge { key: Option<u8> },
    Keep { most: usize },
    Record,
    LoseKeeper { after: u8 },
    End { taken: u64, new_epoch: bool, policy: Policy, max: u64 },
}

fn row() -> impl Strategy<Value = Event> {
    let key = prop_oneof![6 => (0..KEYS).prop_map(Some), 1 => Just(None)];
    (key, prop::bool::weighted(0.25), any::<bool>()).prop_map(|(key, bad, refused)| Event {
        key,
        bad,
        refused,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop_oneof![6 => (0..KEYS).prop_map(Some), 1 => Just(None)];
    let policy = prop_oneof![
        6 => Just(Policy::HoldKey),
        2 => Just(Policy::Continue),
        1 => Just(Policy::Halt),
    ];
    let max = prop_oneof![4 => Just(u64::MAX), 1 => 2..8u64];
    prop_oneof![
        6 => prop::collection::vec(row(), 0..4).prop_map(Step::Commit),
        1 => Just(Step::WriteElsewhere),
        4 => (any::<usize>(), prop::bool::weighted(0.3))
            .prop_map(|(which, discard)| Step::Decide { which, discard }),
        2 => any::<usize>().prop_map(|which| Step::Mend { which }),
        12 => (1..8u8).prop_map(|items| Step::Read { items }),
        6 => key.prop_map(|key| Step::Acknowledge { key }),
        8 => (1..4usize).prop_map(|most| Step::Keep { most }),
        5 => Just(Step::Record),
        1 => (0..5u8).prop_map(|after| Step::LoseKeeper { after }),
        2 => (any::<u64>(), any::<bool>(), policy, max)
            .prop_map(|(taken, new_epoch, policy, max)| Step::End { taken, new_epoch, policy, max }),
    ]
}

/// The world and the session in it.
struct Run {
    world: World,
    session: Session,
}

impl Run {
    fn new(alone: usize) -> Run {
        let mut world = World::new(alone);
        let session = world.begin();
        Run { world, session }
    }

    fn again(&mut self, taken: u64) {
        self.session.end(&mut self.world, taken);
        self.session = self.world.begin();
    }

    fn take(&mut self, step: Step) {
        let Run { world, session } = self;
        match step {
            Step::Commit(rows) => world.commit(rows),
            Step::WriteElsewhere => {
                world.write_elsewhere();
            }
            Step::Decide { which, discard } => world.decide(which, discard),
            Step::Mend { which } => {
                let bad: Vec<&mut Event> = world.events.iter_mut().filter(|event| event.bad).collect();
                let count = bad.len().max(1);
                if let Some(event) = bad.into_iter().nth(which % count) {
                    event.bad = false;
                }
            }
            Step::Read { items } => {
                for _ in 0..items {
                    if let Err(Over) = session.read(world) {
                        return self.again(u64::MAX);
                    }
                    session.check(world);
                }
            }
            Step::Acknowledge { key } => {
                if let Err(Over) = session.acknowledged(world, key) {
                    return self.again(0);
                }
            }
            Step::Keep { most } => {
                session.keep(world, most);
            }
            Step::Record => session.write_record(world),
            Step::LoseKeeper { after } => session.lose_keeper(after),
            Step::End { taken, new_epoch, policy, max } => {
                (world.policy, world.max) = (policy, max);
                // Epochs count on also where the history stays the same.
                world.record.epoch += u64::from(new_epoch);
                self.again(taken);
            }
        }
        self.session.check(&self.world);
    }

    /// A last session without trouble, in which everything is read and kept; then everything is released.
    fn finish(mut self) {
        (self.world.policy, self.world.max) = (Policy::HoldKey, u64::MAX);
        self.again(0);
        self.come_to_rest();
        for event in &mut self.world.events {
            event.bad = false;
        }
        for which in 0..self.world.table.0.len() {
            self.world.decide(which, false);
        }
        self.come_to_rest();
        assert_eq!(self.world.table.open(), 0, "after all that was held was released");
        assert_eq!(self.session.held_keys(), 0);
    }

    fn come_to_rest(&mut self) {
        while let Err(Over) = self.session.come_to_rest(&mut self.world) {
            self.again(0);
        }
        self.session.check(&self.world);
        self.world.nothing_is_lost();
    }
}

/// From one state to the next, whatever is done.
fn holds_through(alone: usize, steps: Vec<Step>) {
    let mut run = Run::new(alone);
    for step in steps {
        run.take(step);
    }
    run.finish();
}

const ALWAYS: usize = usize::MAX;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn holds_keep_order_and_lose_nothing(
        alone in prop_oneof![Just(0), Just(ALWAYS)],
        steps in prop::collection::vec(step(), 0..120),
    ) {
        holds_through(alone, steps);
    }
}

fn event(bad: bool) -> Event {
    Event { key: Some(0), bad, refused: false }
}

const END: Step = Step::End { taken: 0, new_epoch: false, policy: Policy::HoldKey, max: u64::MAX };

/// The first decision is stuck; the second is found where the first one comes again, and takes along an event that
/// stands behind that place in the stream.
#[test]
fn a_decision_that_comes_again_leaves_no_hold_behind() {
    let decide = Step::Decide { which: 0, discard: false };
    holds_through(
        ALWAYS,
        vec![
            Step::Commit(vec![event(true)]),
            Step::Read { items: 3 },
            Step::Keep { most: 1 },
            decide.clone(),
            Step::Read { items: 3 },
            Step::Commit(vec![event(false)]),
            Step::Read { items: 3 },
            Step::Keep { most: 1 },
            Step::Mend { which: 0 },
            decide,
            END,
        ],
    );
}

/// The second event is bad by itself, the first is refused when it was sent long ago: they do not hold the key both.
#[test]
fn a_hold_begins_when_everything_before_it_is_taken() {
    let refused = Event { key: Some(0), bad: true, refused: true };
    holds_through(
        0,
        vec![
            Step::Commit(vec![refused, event(true), event(false)]),
            Step::Read { items: 3 },
            Step::Keep { most: 1 },
            Step::Acknowledge { key: Some(0) },
            Step::Read { items: 7 },
            Step::Decide { which: 1, discard: false },
            END,
        ],
    );
}
