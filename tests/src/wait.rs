//! Waiting on observed state. Tests wait with these functions and nothing else: a fixed sleep is either
//! too short on a busy machine or wasted on a quick one.

use std::time::{Duration, Instant};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `probe` returns something.
///
/// # Panics
/// When `limit` has passed, with `what` was waited for.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match watch(limit, probe) {
        Some(seen) => seen,
        None => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// The same for a caller that goes on, or has more to say, when `limit` has passed.
pub fn watch<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = probe();
        if seen.is_some() || Instant::now() >= deadline {
            return seen;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The same for a probe that has to await something itself.
///
/// # Panics
/// When `limit` has passed, with `what` was waited for. A probe that never returns is given up, too.
pub async fn eventually_async<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let looking = async {
        loop {
            if let Some(seen) = probe().await {
                return seen;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    match tokio::time::timeout(limit, looking).await {
        Ok(seen) => seen,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_seen() {
        let mut looks = 0;
        let seen = eventually(Duration::from_secs(5), "the third look", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for rain")]
    fn says_what_it_waited_for() {
        eventually(Duration::ZERO, "rain", || None::<()>);
    }
}
