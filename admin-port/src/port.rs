//! The open port.

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use crate::answers::{Answers, surface};
use crate::listener::BoundedListener;

/// Time between two looks at whether anything moves.
const EVERY: Duration = Duration::from_secs(1);

/// How long open connections may take to end once the port is told to close. A client that sends nothing must not
/// hold up the end of the program.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A port that listens. What asks before it is served waits.
#[derive(Debug)]
pub struct Port {
    listener: TcpListener,
    address: SocketAddr,
}

impl Port {
    /// Listens.
    ///
    /// # Errors
    /// What the system says: something listens there already, or the address is not of this machine.
    pub async fn open(address: SocketAddr) -> io::Result<Port> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Port { listener, address })
    }

    /// Where it listens, which with port 0 is known only now.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves; open answers then have [`CLOSE_TIMEOUT`] to finish. Keep it running while the
    /// program drains, so that `/ready` says so. The looks are taken in the same task, so whoever awaits this owns
    /// all of it.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(
        self,
        answers: Arc<impl Answers>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let (closing, closed) = tokio::sync::oneshot::channel();
        let serving = axum::serve(BoundedListener::new(self.listener), surface(answers.clone()));
        let serving = serving.with_graceful_shutdown(async move {
            shutdown.await;
            // Nobody listens only if serving is already over.
            let _ = closing.send(());
        });
        let deadline = async {
            // A dropped sender means that `serving` ended, and then the other arm is ready too.
            let _ = closed.await;
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            result = serving.into_future() => result,
            () = deadline => Ok(()),
            () = look(&*answers) => Ok(()),
        }
    }
}

/// Looks once a second, for ever.
async fn look(answers: &impl Answers) {
    let mut ticks = tokio::time::interval(EVERY);
    // After a stop of the machine one look is enough; a burst would see the same thing many times.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        answers.look();
    }
}

#[cfg(test)]
mod tests;
