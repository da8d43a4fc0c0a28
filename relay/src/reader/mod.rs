//! The thread that reads the replication stream: whole frames in large chunks, and feedback on its own
//! clock.
//!
//! | file | what it owns |
//! |---|---|
//! | `thread` | the loop: feedback, room, one read cycle, hand over |
//! | `assembler` | cutting bytes into whole frames; no I/O |
//! | [`chunk`] | what the router gets |
//! | `allowance` | how many bytes may be out at once |
//! | `feedback` | when feedback is due; no I/O |
//! | `pace` | whether the server is ahead, and how long to nap then |
//! | `segments` | in how many segments the data came; whether the server's acknowledgements get through |
//! | [`positions`] | what feedback carries |
//! | [`end`] | how the reader ended |
//!
//! The reader never waits for whoever takes the chunks: when as many bytes are out as allowed, it stops
//! reading and goes on sending feedback, so that a sink that stands still for hours costs neither the
//! connection nor memory. Only where the kernel passes over the server's acknowledgements, since its buffer is full, it reads a
//! little more (`segments`). It knows nothing of transactions; positions that may be confirmed come from
//! [`Positions::record`] alone.

mod allowance;
mod assembler;
pub mod chunk;
pub mod end;
pub(crate) mod feedback;
mod pace;
pub mod positions;
mod segments;
mod thread;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::chunk::{Chunk, Frame};
pub use self::end::{FramingError, ReaderEnd};
pub use self::positions::Positions;

use self::allowance::Allowance;
use self::thread::{Control, Order};
use crate::observe::Observed;
use crate::wire::{Interrupt, ReplicationStream};

/// Bounds and clocks of a reader.
#[derive(Debug, Clone, Copy)]
pub struct ReaderConfig {
    /// Bytes of chunks handed out and not yet dropped; full means "stop reading".
    pub read_ahead_bytes: usize,
    /// Of a row whose frame is longer than this only the beginning is kept.
    pub max_row_bytes: usize,
    /// Time between two pieces of feedback that ask the server for a sign of life. At most a third of
    /// `wal_sender_timeout`, or a delay of one costs the connection.
    pub feedback_every: Duration,
    /// The stream is given up when nothing has come for this long although it was read from and asked
    /// for.
    pub silent_after: Duration,
}

impl ReaderConfig {
    /// Feedback every second, or more often if `wal_sender_timeout` asks for it; given up after 15 s of
    /// silence.
    pub fn new(read_ahead_bytes: usize, max_row_bytes: usize, wal_sender_timeout: Duration) -> Self {
        ReaderConfig {
            read_ahead_bytes,
            max_row_bytes,
            feedback_every: Duration::from_secs(1).min(wal_sender_timeout / 3),
            silent_after: Duration::from_secs(15),
        }
    }
}

/// Starts the thread that reads `stream`. The chunks go to the router; the handle stays with the session.
///
/// # Errors
///
/// The system has no thread to give.
pub fn spawn(
    stream: ReplicationStream,
    config: ReaderConfig,
    positions: Arc<Positions>,
    observed: Arc<Observed>,
) -> io::Result<(Reader, Chunks)> {
    let allowance = Arc::new(Allowance::new(config.read_ahead_bytes));
    let control = Arc::new(Control::default());
    let interrupt = stream.interrupt();
    // The channel needs no bound of its own: every chunk in it counts against the allowance, the smallest
    // ones for more than they hold.
    let (out, chunks) = mpsc::channel();
    let reading = thread::Reading::new(stream, config, positions, observed, &allowance, &control, out);
    let span = tracing::Span::current();
    let run = move || span.in_scope(|| reading.run());
    let thread = std::thread::Builder::new().name("reader".to_owned()).spawn(run)?;
    Ok((Reader { control, allowance, interrupt, thread: Some(thread) }, Chunks(chunks)))
}

/// What the router takes next.
#[derive(Debug)]
pub enum Next {
    /// Whole frames.
    Chunk(Chunk),
    /// Nothing came in time.
    Empty,
    /// Nothing will come any more: the reader was told to stop reading, or has ended.
    Ended,
}

/// The router's end of a reader. Dropping it lets what comes be thrown away; feedback goes on.
#[derive(Debug)]
pub struct Chunks(Receiver<Chunk>);

impl Chunks {
    /// Waits at most `timeout` for the next chunk.
    pub fn next(&self, timeout: Duration) -> Next {
        match self.0.recv_timeout(timeout) {
            Ok(chunk) => Next::Chunk(chunk),
            Err(RecvTimeoutError::Timeout) => Next::Empty,
            Err(RecvTimeoutError::Disconnected) => Next::Ended,
        }
    }
}

/// The session's end of a reader. Dropping it cuts the connection and waits for the thread.
#[derive(Debug)]
pub struct Reader {
    control: Arc<Control>,
    allowance: Arc<Allowance>,
    interrupt: Interrupt,
    thread: Option<JoinHandle<ReaderEnd>>,
}

impl Reader {
    /// Hands out no further rows: what comes is thrown away. Feedback goes on, and what was read can still be taken; after that
    /// [`Chunks::next`] says [`Next::Ended`].
    pub fn stop_reading(&self) {
        self.order(Order::Drain);
    }

    /// Whether the thread has ended, for whatever reason; [`close`](Self::close) says which.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// A handle that cuts the connection at once, for whoever sees first that it must end.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Sends what is recorded, takes leave of the server, and waits for the thread: about a second at
    /// most, unless the connection is stuck. If the reader had ended before, that end is returned.
    pub fn close(mut self) -> ReaderEnd {
        self.order(Order::Close);
        self.join().unwrap_or(ReaderEnd::Stopped)
    }

    /// Cuts the connection and waits for the thread. If the reader had ended before, that end is
    /// returned.
    pub fn abort(mut self) -> ReaderEnd {
        self.cut().unwrap_or(ReaderEnd::Stopped)
    }

    fn cut(&mut self) -> Option<ReaderEnd> {
        self.order(Order::Abort);
        self.interrupt.interrupt();
        self.join()
    }

    fn order(&self, order: Order) {
        self.control.order(order);
        self.allowance.wake();
    }

    /// The thread's end; `None` if it was asked for before.
    fn join(&mut self) -> Option<ReaderEnd> {
        match self.thread.take()?.join() {
            Ok(end) => Some(end),
            // A defect of the reader is a defect of the session.
            Err(panic) if !std::thread::panicking() => std::panic::resume_unwind(panic),
            Err(_) => None,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.cut();
        }
    }
}
