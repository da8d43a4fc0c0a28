//! Versions of librdkafka that are known to be bad for what a consumer does here (C40).
//!
//! The library that runs may be another than the one this crate was built with: rdkafka's feature `dynamic-linking`
//! asks for a version when it is built, and takes at run time whatever the machine has.

/// What was mended in cooperative rebalances, newest first: the version, as librdkafka numbers them, and what those
/// before it do. From librdkafka's `CHANGELOG.md`, with the number of the change there.
const MENDED: [(i32, &str); 4] = [
    // "Commits during a cooperative incremental rebalance could cause an assignment lost if the generation id was
    // bumped by a second join group request", since 1.6.0 (#4908). We commit whenever the frontier moves.
    (0x020a_00ff, "a commit during a cooperative rebalance may lose the assignment (#4908)"),
    // "A consumer configured with the cooperative-sticky partition assignment strategy could get stuck in an infinite
    // loop", since 1.6.0 (#4800).
    (0x0206_01ff, "some orders of the group's members make the assignment loop for ever (#4800)"),
    // "it could resume fetching from a previous position. That could also happen if resuming a partition that wasn't
    // paused", since 1.x (#4636). We resume all that was taken on.
    (0x0204_00ff, "resuming a partition that was not paused may read it from a former position (#4636)"),
    // "Fix a segmentation fault when closing a consumer using the cooperative-sticky assignor before the first
    // assignment" (#4381).
    (0x0203_00ff, "leaving the group before the first assignment ends the process (#4381)"),
];

/// Why the library that runs is refused, in a sentence; `None` where it is not.
pub(crate) fn refused() -> Option<String> {
    let (number, called) = rdkafka::util::get_rdkafka_version();
    why(number, &called)
}

/// The same, of any version: `number` is `0xMMmmrrxx`, where `xx` is `ff` for a release and less before it.
fn why(number: i32, called: &str) -> Option<String> {
    let wrong: Vec<&str> =
        MENDED.iter().filter(|(mended, _)| number < *mended).map(|(_, what)| *what).collect();
    (!wrong.is_empty()).then(|| {
        format!(
            "librdkafka {called} is known to be bad: {}; link 2.10.0 or a later one, or leave rdkafka's feature \
             dynamic-linking out",
            wrong.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_the_last_repair_are_refused_with_what_is_wrong_with_each() {
        for (number, called, wrong) in [
            (0x0208_00ff, "2.8.0", &["#4908"][..]),
            // A candidate of the version that mended it.
            (0x020a_0064, "2.10.0-RC1", &["#4908"]),
            (0x0206_00ff, "2.6.0", &["#4908", "#4800"]),
            (0x0203_00ff, "2.3.0", &["#4908", "#4800", "#4636"]),
            (0x0200_02ff, "2.0.2", &["#4908", "#4800", "#4636", "#4381"]),
            (0x0102_00ff, "1.2.0", &["#4908", "#4800", "#4636", "#4381"]),
        ] {
            let said = why(number, called).unwrap_or_else(|| panic!("{called} passes"));
            assert!(said.starts_with(&format!("librdkafka {called} is known to be bad: ")), "{said}");
            assert_eq!(said.matches('#').count(), wrong.len(), "{said}");
            assert!(wrong.iter().all(|change| said.contains(change)), "{said}");
        }
    }

    #[test]
    fn later_versions_pass_and_so_does_the_one_that_runs_here() {
        for number in [0x020a_00ff, 0x020a_01ff, 0x020c_01ff, 0x0300_00ff] {
            assert_eq!(why(number, "later"), None, "{number:#x}");
        }
        assert_eq!(refused(), None);
    }
}
