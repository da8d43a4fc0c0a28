//! The loop: feedback, room, one read cycle, hand over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;

use super::ReaderConfig;
use super::allowance::Allowance;
use super::assembler::{Assembler, Progress, Seen};
use super::chunk::Chunk;
use super::end::ReaderEnd;
use super::feedback::FeedbackClock;
use super::positions::Positions;
use super::segments::Segments;
use crate::observe::Observed;
use crate::pgoutput::PgTime;
use crate::wire::connection::is_pause;
use crate::wire::{ReplicationStream, ServerError, Status};

/// Longest wait for bytes or room, so that the clock of the feedback is looked at.
const LOOK_AT_THE_CLOCK: Duration = Duration::from_millis(100);

/// A read of at least this many bytes, a quarter of the small receive buffer, is one of many: the server
/// has more in its queue, held back only by the receive window that the read has just opened.
const LARGE_READ: usize = 8 * 1024;

/// How long the rest of a burst is waited for after a large read.
const WINDOW_OPENS: Duration = Duration::from_millis(1);

/// Longest burst before feedback and orders are looked at.
const BURST: Duration = Duration::from_millis(20);

/// The pause between two reads whose bytes nobody wants: they come again at the next start.
const UNWANTED: Duration = Duration::from_millis(20);

/// How long the server's own goodbye is waited for.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the reader is told to do; each order includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Order {
    /// Read and send feedback.
    Read,
    /// Send feedback, and throw away what comes.
    Drain,
    /// Send feedback once more, take leave and end.
    Close,
    /// End.
    Abort,
}

/// The order in force.
#[derive(Debug, Default)]
pub(super) struct Control(AtomicU8);

impl Control {
    /// Gives an order; one that is weaker than the order in force changes nothing.
    pub(super) fn order(&self, order: Order) {
        self.0.fetch_max(order as u8, Relaxed);
    }

    fn current(&self) -> Order {
        match self.0.load(Relaxed) {
            0 => Order::Read,
            1 => Order::Drain,
            2 => Order::Close,
            _ => Order::Abort,
        }
    }
}

/// The thread's state.
pub(super) struct Reading {
    stream: ReplicationStream,
    config: ReaderConfig,
    positions: Arc<Positions>,
    observed: Arc<Observed>,
    allowance: Arc<Allowance>,
    control: Arc<Control>,
    /// `None` once nothing more is to be handed out.
    out: Option<Sender<Chunk>>,
    assembler: Assembler,
    seen: Seen,
    clock: FeedbackClock,
    /// When something came last, or reading began again.
    heard: Instant,
    segments: Segments,
}

impl Reading {
    pub(super) fn new(
        stream: ReplicationStream,
        config: ReaderConfig,
        positions: Arc<Positions>,
        observed: Arc<Observed>,
        allowance: &Arc<Allowance>,
        control: &Arc<Control>,
        out: Sender<Chunk>,
    ) -> Self {
        Reading {
            assembler: Assembler::new(config.max_row_bytes, allowance),
            seen: Seen::default(),
            clock: FeedbackClock::new(config.feedback_every),
            heard: Instant::now(),
            segments: Segments::of(&stream),
            allowance: Arc::clone(allowance),
            control: Arc::clone(control),
            out: Some(out),
            stream,
            config,
            positions,
            observed,
        }
    }

    /// Reads until told to stop, or until something ends it.
    pub(super) fn run(mut self) -> ReaderEnd {
        let end = loop {
            match self.step() {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        // What came whole before the end is still worth publishing.
        self.hand_over();
        if self.control.current() == Order::Abort {
            // Whatever the cut connection looked like from here.
            return ReaderEnd::Stopped;
        }
        end
    }

    fn step(&mut self) -> Result<(), ReaderEnd> {
        match self.control.current() {
            Order::Read => {}
            Order::Drain => self.out = None,
            Order::Close => return Err(self.take_leave()),
            Order::Abort => return Err(ReaderEnd::Stopped),
        }
        self.send_feedback()?;
        self.segments.look(&self.observed);
        if self.out.is_none() {
            return self.throw_away();
        }
        if !self.allowance.has_room(self.assembler.cost(), LOOK_AT_THE_CLOCK) {
            // Not reading is not the server's silence.
            self.heard = Instant::now();
            if self.segments.needs_a_read() {
                let count = self.read(WINDOW_OPENS)?;
                self.digest(count)?;
                self.hand_over();
            }
            return Ok(());
        }
        self.segments.reads_on();
        self.read_cycle()
    }

    fn send_feedback(&mut self) -> Result<(), ReaderEnd> {
        let recorded = self.positions.recorded();
        match self.clock.due(Instant::now(), recorded) {
            Some(due) => self.send_status(due.ask),
            None => Ok(()),
        }
    }

    fn send_status(&mut self, reply_requested: bool) -> Result<(), ReaderEnd> {
        let recorded = self.positions.recorded();
        let status = Status {
            // A server whose write position stands still sends a keepalive for every step it makes, so
            // this follows what was received. It frees nothing; `flush` does.
            write: self.positions.received().max(recorded),
            flush: recorded,
            apply: recorded,
            time: PgTime::now(),
            reply_requested,
        };
        self.stream.send_status(&status).map_err(|source| ReaderEnd::Io { doing: "sending feedback", source })
    }

    /// Waits for bytes, takes what belongs to the same burst, and hands it over.
    fn read_cycle(&mut self) -> Result<(), ReaderEnd> {
        let mut count = self.read(LOOK_AT_THE_CLOCK)?;
        let woke = Instant::now();
        if count == 0 {
            let silent = woke.duration_since(self.heard);
            let given_up = silent >= self.config.silent_after;
            return if given_up { Err(ReaderEnd::Silent { after: silent }) } else { Ok(()) };
        }
        self.heard = woke;
        self.digest(count)?;
        while self.seen.pace.is_behind()
            && count >= LARGE_READ
            && woke.elapsed() < BURST
            && self.allowance.has_room(self.assembler.cost(), Duration::ZERO)
        {
            count = self.read(WINDOW_OPENS)?;
            self.digest(count)?;
        }
        self.hand_over();
        if count < LARGE_READ {
            // Not for waiting on anything: the server's queue fills meanwhile. Zero unless behind, and
            // never after a large read.
            let nap = self.seen.pace.nap(woke, Instant::now());
            if !nap.is_zero() {
                std::thread::sleep(nap);
            }
        }
        Ok(())
    }

    /// Reads once; 0 if nothing came in time.
    fn read(&mut self, timeout: Duration) -> Result<usize, ReaderEnd> {
        match self.stream.receive(self.assembler.space(), timeout) {
            Ok(0) => Err(ReaderEnd::ClosedByServer(None)),
            Ok(count) => Ok(count),
            Err(error) if is_pause(&error) => Ok(0),
            Err(source) => Err(ReaderEnd::Io { doing: "reading", source }),
        }
    }

    /// Takes in what was read; hands over what must not wait.
    fn digest(&mut self, count: usize) -> Result<(), ReaderEnd> {
        let mut progress = self.assembler.advance(count, &mut self.seen)?;
        while progress == Progress::Cut {
            self.hand_over();
            progress = self.assembler.advance(0, &mut self.seen)?;
        }
        self.positions.receive(self.seen.position);
        self.positions.lags(self.seen.pace.lag_micros());
        self.observed.received.set(self.positions.received().0);
        if std::mem::take(&mut self.seen.reply_requested) {
            self.clock.server_asks();
        }
        match progress {
            Progress::End(error) => {
                Err(ReaderEnd::ClosedByServer(error.and_then(|message| server_error(&message))))
            }
            Progress::More | Progress::Cut => Ok(()),
        }
    }

    fn hand_over(&mut self) {
        if let Some(chunk) = self.assembler.cut()
            && let Some(out) = &self.out
            && out.send(chunk).is_err()
        {
            // Whoever took the chunks is gone: what comes is thrown away, as in a drain.
            self.out = None;
        }
    }

    /// Reads on for nobody. With a receive buffer that runs full the server's acknowledgements may be passed over (see
    /// [`segments`](super::segments)), and the connection be given up before the last feedback has come.
    fn throw_away(&mut self) -> Result<(), ReaderEnd> {
        let count = self.read(UNWANTED)?;
        if count > 0 {
            self.digest(count)?;
            self.hand_over();
            self.allowance.rest(UNWANTED);
        }
        Ok(())
    }

    /// Sends what is recorded and CopyDone, and throws away what comes until the server has answered it.
    /// A connection that breaks meanwhile is closed just as well.
    fn take_leave(&mut self) -> ReaderEnd {
        self.out = None;
        let said = self.send_status(false).is_ok() && self.stream.send_copy_done().is_ok();
        let since = Instant::now();
        while said && self.control.current() == Order::Close {
            let left = GOODBYE.saturating_sub(since.elapsed());
            if left.is_zero() {
                break;
            }
            let digested = self.read(left.min(LOOK_AT_THE_CLOCK)).and_then(|count| self.digest(count));
            self.hand_over();
            if digested.is_err() {
                break;
            }
        }
        self.stream.terminate();
        ReaderEnd::Stopped
    }
}

/// What an ErrorResponse says.
fn server_error(message: &[u8]) -> Option<ServerError> {
    match Message::parse(&mut BytesMut::from(message)) {
        Ok(Some(Message::ErrorResponse(body))) => Some(ServerError::from_fields(body.fields())),
        _ => None,
    }
}
