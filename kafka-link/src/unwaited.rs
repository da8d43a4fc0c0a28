//! A client whose end nobody waits for.

use std::fmt;
use std::ops::Deref;
use std::thread;

/// Ends what it holds on a thread of its own. The end of a client waits for the client's threads, and librdkafka's wait by
/// the wall clock (`cnd_timedwait`): where that is set back by an hour, the end takes an hour. Whoever drops a client on
/// a thread of a runtime would hold up everything that runs there.
pub struct Unwaited<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Unwaited<T> {
    /// Takes charge of its end.
    pub fn new(client: T) -> Unwaited<T> {
        Unwaited(Some(client))
    }
}

impl<T: Send + 'static> Deref for Unwaited<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(client) => client,
            None => unreachable!("it is taken by its own end only"),
        }
    }
}

impl<T: Send + 'static> Drop for Unwaited<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Where there is no thread to be had it ends here.
        let _leaving = thread::Builder::new().name("retire".into()).spawn(move || drop(client));
    }
}

impl<T: Send + 'static> fmt::Debug for Unwaited<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwaited").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;

    /// Ends when it is let.
    struct Slow(Receiver<()>, std::sync::mpsc::Sender<&'static str>);

    impl Drop for Slow {
        fn drop(&mut self) {
            // Whoever waits for this is found out by it, and does not wait for ever.
            let _told = self.0.recv_timeout(Duration::from_secs(10));
            self.1.send("ended").unwrap();
        }
    }

    #[test]
    fn its_end_holds_up_nobody_and_comes() {
        let ((end, ends), (tell, told)) = (channel(), channel());
        let client = Unwaited::new(Slow(ends, tell));
        drop(client);
        assert!(told.try_recv().is_err(), "nobody has let it end yet, and we are here");
        end.send(()).unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok("ended"));
    }
}
