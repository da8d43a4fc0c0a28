use super::*;
use crate::packed::Packed;
use crate::record::{Body, Tries};

const PLACE: (u32, i32) = (0, 0);

fn engine() -> (Engine, Lane) {
    let mut engine = Engine::new(Held { count: 100, bytes: usize::MAX }, 3);
    let lane = engine.assigned(Arc::from("t"), PLACE.0, PLACE.1, 0, Metadata::default());
    (engine, lane)
}

fn record(offset: i64) -> Record {
    let packed = Packed::new(Some(b"k"), None, &[]);
    let body = Body {
        topic: Arc::from("t"),
        scope: Arc::from("s"),
        partition: PLACE.1,
        offset,
        timestamp: 0,
        id: None,
        packed,
    };
    Record::new(body, Tries::default())
}

#[test]
fn a_gap_behind_the_last_record_is_passed() {
    let (mut engine, lane) = engine();
    engine.read_up_to(PLACE, 7);
    assert_eq!(engine.left(lane, false, Room::Usual).map(|commit| commit.offset), Some(7));
}

#[test]
fn what_is_read_while_a_partition_leaves_is_no_gap() {
    let (mut engine, lane) = engine();
    engine.deliver(PLACE, [record(0)].into_iter());
    let mut works = engine.take(Hands { workers: 1, threads: 1, light: 1 });
    engine.leave(lane);
    // The client reads on until it lets the partition go; nothing of that is taken in.
    engine.deliver(PLACE, [record(1)].into_iter());
    engine.read_up_to(PLACE, 2);
    let mut work = works.pop().unwrap();
    drop(engine.settle(&mut work, 0, false));
    engine.end(work, After::GoOn);
    assert_eq!(engine.left(lane, false, Room::Usual).map(|commit| commit.offset), Some(1));
}
