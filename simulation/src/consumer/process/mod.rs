//! One process of a consumer: the real engine, and around it models of what the runtime does, step by step.

pub mod client;
pub mod conclude;
pub mod parked;
pub mod turn;
pub mod worker;

use outbox_consumer::intake::Held;
use outbox_consumer::keys::HoldId;
use outbox_consumer::simulation::Engine;

use crate::consumer::around::Around;
use crate::consumer::database::TxId;
use crate::consumer::group::Who;
use crate::consumer::judge::CONVICT_AFTER;
use crate::consumer::log::{EventId, KeyId};
use client::Client;
use parked::Keeper;
use worker::Worker;

/// `runtime::AGAIN`.
pub const AGAIN: u64 = 500;

/// A process.
pub struct Process {
    /// What it has of its own and its parts share.
    pub core: Core,
    /// The thread with the Kafka client.
    pub client: Client,
    /// The tasks that run records.
    pub workers: Vec<Worker>,
    /// The task that runs parked keys.
    pub keeper: Keeper,
}

/// `runtime::Shared`.
pub struct Core {
    /// The code that is looked at.
    pub engine: Engine,
    /// Instance and run.
    pub who: Who,
    /// Its group.
    pub group: usize,
    /// The group's scope.
    pub scope: usize,
    /// It ends in order.
    pub stopping: bool,
    /// Keys that wait, and until when.
    pub holds: Vec<(u64, HoldId)>,
    /// Keys of which a run is out.
    pub busy: Vec<KeyId>,
    /// Handlers that run, by the workers.
    pub handlers: usize,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// Nothing was to be done.
    Idle,
    /// Something was.
    On,
    /// The process is dead: the handler of this event killed it.
    Killed(EventId),
    /// The process has ended in order.
    Ended,
}

impl From<bool> for Stepped {
    fn from(on: bool) -> Stepped {
        if on { Stepped::On } else { Stepped::Idle }
    }
}

impl Process {
    /// A process begins.
    pub fn new(around: &mut Around, who: Who, group: usize) -> Process {
        let settings = &around.settings;
        let most = Held { count: settings.most, bytes: usize::MAX };
        let mutant = around.mutant.and_then(crate::consumer::Mutant::of_engine);
        let scope = settings.groups[group];
        let workers = (0..settings.workers).map(|_| Worker::idle()).collect();
        let client = Client::new(settings.small);
        around.groups[group].join(who);
        around.tell(|| format!("process {who:?} of group {group} begins"));
        Process {
            core: Core {
                engine: Engine::new(most, CONVICT_AFTER, mutant),
                who,
                group,
                scope,
                stopping: false,
                holds: Vec::new(),
                busy: Vec::new(),
                handlers: 0,
            },
            client,
            workers,
            keeper: Keeper::idle(),
        }
    }

    /// Keys whose wait is over.
    pub fn resume(&mut self, now: u64) -> bool {
        let core = &mut self.core;
        let before = core.holds.len();
        let engine = &mut core.engine;
        core.holds.retain(|(due, hold)| {
            if *due <= now {
                engine.resume(*hold);
            }
            *due > now
        });
        core.holds.len() < before
    }

    /// It is dead: whoever talked with it hears nothing more.
    pub fn die(self, around: &mut Around) {
        let who = self.core.who;
        let open: Vec<TxId> =
            around.db.txs.iter().filter(|(_, tx)| tx.owner == who).map(|(number, _)| *number).collect();
        open.into_iter().for_each(|tx| around.db.drop_connection(tx, around.now));
        // What was on its way arrives, or a part of it.
        self.client.cut(around, &self.core);
        around.groups[self.core.group].died(who, around.now);
    }
}
