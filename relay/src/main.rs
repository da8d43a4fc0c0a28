//! The `outbox-relay` program.

use std::process::ExitCode;

/// librdkafka allocates a record, its header list and each header on the thread that hands it over and frees
/// them on another. The system's allocator takes a lock for that; jemalloc in the place of C's `malloc`, so
/// that librdkafka uses it too, doubles to triples the producer's throughput. A Rust-only allocator would not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    outbox_relay::commands::main()
}
