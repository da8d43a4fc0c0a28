//! The consumer side of the transactional outbox. Not written yet: see the README beside this crate.
