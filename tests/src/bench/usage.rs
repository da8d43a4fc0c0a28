//! Processor time and memory of other processes, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

/// Ticks per second of the times in `/proc`: fixed in the kernel's interface on every platform that the
/// relay is built for.
const TICKS: f64 = 100.0;

/// Time between two looks at a process that may end; what it uses after the last look is missed.
const LOOK: Duration = Duration::from_millis(50);

/// Processor time of all threads of a process so far, in seconds; `None` if it is gone.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields 14 and 15; the command in field 2 may hold spaces and parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

/// The same of the threads that run still, in nanoseconds. A thread that runs on another processor at this moment may be
/// behind by a tick of the kernel's clock.
pub fn cpu_nanos(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let nanos = threads.filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(nanos.sum())
}

/// A figure of `/proc/<pid>/status` in KiB, such as `VmHWM`.
pub fn memory_kib(pid: u32, figure: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Looks at processes from their first look until it is dropped, and keeps the newest answer of each: a
/// process that ended cannot be asked any more.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<HashMap<u32, Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: f64,
    last: f64,
}

impl Watch {
    /// Begins to look.
    pub fn start(pids: &[u32]) -> Watch {
        let now = pids.iter().filter_map(|&pid| Some((pid, cpu_seconds(pid)?)));
        let seen: HashMap<u32, Seen> = now.map(|(pid, cpu)| (pid, Seen { first: cpu, last: cpu })).collect();
        let seen = Arc::new(Mutex::new(seen));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || {
                while !stop.load(Relaxed) {
                    look(&seen);
                    std::thread::sleep(LOOK);
                }
            }
        });
        Watch { seen, stop, thread: Some(thread) }
    }

    /// Processor time that a process has used between its first look and now, or its end.
    pub fn used(&self, pid: u32) -> f64 {
        look(&self.seen);
        self.seen.lock().get(&pid).map_or(0.0, |seen| seen.last - seen.first)
    }
}

fn look(seen: &Mutex<HashMap<u32, Seen>>) {
    for (pid, seen) in seen.lock().iter_mut() {
        seen.last = cpu_seconds(*pid).unwrap_or(seen.last);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing that could panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_seen() {
        let pid = std::process::id();
        let watch = Watch::start(&[pid]);
        let mut sum = 0u64;
        crate::wait::eventually(Duration::from_secs(60), "processor time to pass", || {
            (0..5_000_000u64).for_each(|n| sum = std::hint::black_box(sum.wrapping_add(n)));
            (watch.used(pid) > 0.0).then_some(())
        });
        assert!(cpu_nanos(pid).unwrap() > 0);
        assert!(memory_kib(pid, "VmHWM").unwrap() > 100);
        assert_eq!(watch.used(u32::MAX), 0.0);
    }
}
