//! The replication commands.

use std::time::Duration;

use postgres_protocol::message::frontend;

use super::connection::{Connection, Patience};
use super::error::WireError;
use super::query::Row;
use super::quote::{identifier, literal};
use super::stream::ReplicationStream;
use super::timeline::TimelineHistory;
use crate::config::SourceFormat;
use crate::lsn::Lsn;

/// How long a command that waits for nothing but the server may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Which server this is, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Identifies the cluster; the same on a primary and its standbys.
    pub system_id: String,
    /// Current timeline.
    pub timeline: u32,
    /// How far the WAL is flushed.
    pub flush: Lsn,
    /// Database of the connection.
    pub database: String,
}

/// A slot that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Where its stream begins.
    pub consistent_point: Lsn,
    /// Name of the exported snapshot, for `SET TRANSACTION SNAPSHOT`. It shows exactly what committed
    /// before the stream begins, and lives until this connection gets its next command or ends.
    pub snapshot: String,
}

impl Connection {
    /// `IDENTIFY_SYSTEM`.
    ///
    /// # Errors
    ///
    /// The connection fails, or the answer is not one.
    pub fn identify_system(&mut self) -> Result<SystemIdentity, WireError> {
        const DOING: &str = "asking the server which it is";
        let rows = self.simple_query("IDENTIFY_SYSTEM", DOING, Patience::within(ANSWER))?;
        let [system_id, timeline, flush, database] = one_row(rows, DOING)?;
        Ok(SystemIdentity {
            system_id,
            timeline: parsed(&timeline, DOING)?,
            flush: parsed(&flush, DOING)?,
            database,
        })
    }

    /// `TIMELINE_HISTORY`: by which switches the server came to `timeline`. The first timeline has no
    /// history, and no file that could be asked for.
    ///
    /// # Errors
    ///
    /// The connection fails, the server has no such file (`58P01`), or the file is not a history.
    pub fn timeline_history(&mut self, timeline: u32) -> Result<TimelineHistory, WireError> {
        const DOING: &str = "reading the timeline's history";
        if timeline <= 1 {
            return Ok(TimelineHistory::default());
        }
        let command = format!("TIMELINE_HISTORY {timeline}");
        let rows = self.simple_query(&command, DOING, Patience::within(ANSWER))?;
        let [_file, content] = one_row(rows, DOING)?;
        parsed(&content, DOING)
    }

    /// `CREATE_REPLICATION_SLOT … LOGICAL pgoutput (SNAPSHOT 'export')`, from PostgreSQL 17 on as a failover slot
    /// where that is asked for.
    ///
    /// It waits for transactions that are open, however long that takes; an
    /// [`Interrupt`](super::Interrupt) ends the waiting, and with it the half-made slot.
    ///
    /// # Errors
    ///
    /// The connection fails, the slot exists (`42710`), no slot is free (`53400`), `wal_level` is not
    /// `logical` (`55000`), or the role may not (`42501`).
    pub fn create_slot(
        &mut self,
        slot: &str,
        temporary: bool,
        failover: bool,
    ) -> Result<CreatedSlot, WireError> {
        const DOING: &str = "creating the replication slot";
        let temporary = if temporary { " TEMPORARY" } else { "" };
        // Older servers do not know the word.
        let failover = if failover && self.major() >= 17 { ", FAILOVER" } else { "" };
        let command = format!(
            "CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput (SNAPSHOT 'export'{failover})",
            identifier(slot)
        );
        let rows = self.simple_query(&command, DOING, Patience::Unlimited)?;
        let [_slot, consistent_point, snapshot, _plugin] = one_row(rows, DOING)?;
        Ok(CreatedSlot { consistent_point: parsed(&consistent_point, DOING)?, snapshot })
    }

    /// `DROP_REPLICATION_SLOT`.
    ///
    /// # Errors
    ///
    /// The connection fails, there is no such slot (`42704`), or somebody uses it (`55006`).
    pub fn drop_slot(&mut self, slot: &str) -> Result<(), WireError> {
        const DOING: &str = "dropping the replication slot";
        let command = format!("DROP_REPLICATION_SLOT {}", identifier(slot));
        self.simple_query(&command, DOING, Patience::within(ANSWER)).map(drop)
    }

    /// `START_REPLICATION SLOT … LOGICAL 0/0`: the stream begins where the slot was last confirmed. Any
    /// other position would be moved forward silently if it lay before that, and could skip if it lay
    /// behind.
    ///
    /// In binary form values come as their types' send functions write them, as far as they have any.
    ///
    /// # Errors
    ///
    /// The connection fails, there is no such slot (`42704`), another connection streams from it (`55006`),
    /// or it is lost (`55000`). The connection is closed then.
    pub fn start_replication(
        mut self,
        slot: &str,
        publication: &str,
        format: SourceFormat,
    ) -> Result<ReplicationStream, WireError> {
        const DOING: &str = "starting the replication";
        const COPY_BOTH_RESPONSE: u8 = b'W';
        let binary = match format {
            SourceFormat::Text => "",
            SourceFormat::Binary => ", binary 'true'",
        };
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}, messages 'true'{binary})",
            identifier(slot),
            literal(&identifier(publication))
        );
        self.send(DOING, |out| frontend::query(&command, out))?;
        let patience = Patience::within(ANSWER);
        loop {
            // `postgres-protocol` does not know this message, so it is looked for before parsing.
            let (tag, length) = self.await_message(DOING, patience)?;
            if tag == COPY_BOTH_RESPONSE {
                let _ = self.inbox.split_to(length);
                return Ok(ReplicationStream::new(self.channel, self.inbox, self.backend_pid));
            }
            if self.take_message(DOING)?.is_some() {
                return Err(WireError::protocol(DOING, "a message that does not begin a stream"));
            }
        }
    }
}

/// The only row of an answer, without NULLs.
fn one_row<const N: usize>(rows: Vec<Row>, doing: &'static str) -> Result<[String; N], WireError> {
    let shape =
        |rows: &Vec<Row>| format!("{} rows of {} columns", rows.len(), rows.first().map_or(0, Vec::len));
    let unexpected = WireError::protocol(doing, shape(&rows));
    let [row] = <[Row; 1]>::try_from(rows).map_err(|_| unexpected)?;
    let columns = row.len();
    let texts: Option<Vec<String>> = row.into_iter().collect();
    texts
        .and_then(|texts| <[String; N]>::try_from(texts).ok())
        .ok_or_else(|| WireError::protocol(doing, format!("{columns} columns, or NULL in one of them")))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
    doing: &'static str,
) -> Result<T, WireError> {
    text.parse().map_err(|error: T::Err| WireError::protocol(doing, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fake::{self, Peer, Server};

    fn connected(script: impl FnOnce(&mut Peer) + Send + 'static) -> (Connection, Server) {
        let server = Server::start(|peer| {
            peer.log_in();
            script(peer);
        });
        (Connection::connect(&server.target(None)).expect("a login"), server)
    }

    #[test]
    fn the_system_is_identified() {
        let (mut connection, server) = connected(|peer| {
            peer.query("IDENTIFY_SYSTEM");
            peer.send(&fake::row(&["7345", "2", "16/B374D848", "orders"]));
            peer.send(&fake::message(b'C', b"IDENTIFY_SYSTEM\0"));
            peer.send(&fake::ready());
        });
        let identity = connection.identify_system().unwrap();
        server.join();
        assert_eq!(
            identity,
            SystemIdentity {
                system_id: "7345".to_owned(),
                timeline: 2,
                flush: Lsn(0x16_B374_D848),
                database: "orders".to_owned()
            }
        );
    }

    #[test]
    fn a_refusal_keeps_what_the_server_said_and_the_connection_goes_on() {
        let (mut connection, server) = connected(|peer| {
            peer.query("DROP_REPLICATION_SLOT \"out\"\"box\"");
            peer.send(&fake::error("ERROR", "42704", "replication slot does not exist"));
            peer.send(&fake::ready());
            peer.query("CREATE_REPLICATION_SLOT \"outbox\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')");
            peer.send(&fake::row(&["outbox", "0/15E3E70", "00000003-0000001B-1", "pgoutput"]));
            peer.send(&fake::ready());
        });
        let error = connection.drop_slot("out\"box").unwrap_err();
        assert_eq!(error.sqlstate(), Some("42704"));
        assert_eq!(error.server().unwrap().hint.as_deref(), Some("look there"));
        let slot = connection.create_slot("outbox", true, true).unwrap();
        server.join();
        assert_eq!(slot.consistent_point, Lsn(0x15E_3E70));
        assert_eq!(slot.snapshot, "00000003-0000001B-1");
    }

    #[test]
    fn the_last_words_of_a_server_that_goes_are_kept() {
        let (mut connection, server) = connected(|peer| {
            peer.query("IDENTIFY_SYSTEM");
            peer.send(&fake::error("FATAL", "57P01", "terminating connection"));
        });
        let error = connection.identify_system().unwrap_err();
        server.join();
        assert_eq!(error.sqlstate(), Some("57P01"));
    }

    #[test]
    fn silence_of_a_closed_connection_is_told_apart() {
        let (mut connection, server) = connected(|peer| peer.query("IDENTIFY_SYSTEM"));
        let error = connection.identify_system().unwrap_err();
        server.join();
        assert!(matches!(error, WireError::Closed { .. }), "{error:?}");
    }

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        for rows in
            [vec![], vec![vec!["1"]], vec![vec!["1", "x", "0/0", "db"]], vec![vec!["1", "1", "0/0", "db"]; 2]]
        {
            let answer: Vec<u8> = rows.iter().flat_map(|row| fake::row(row)).chain(fake::ready()).collect();
            let (mut connection, server) = connected(move |peer| {
                peer.query("IDENTIFY_SYSTEM");
                peer.send(&answer);
            });
            let error = connection.identify_system().unwrap_err();
            server.join();
            assert!(matches!(error, WireError::Protocol { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_message_of_absurd_length_is_refused_unread() {
        let (mut connection, server) = connected(|peer| {
            peer.query("IDENTIFY_SYSTEM");
            peer.send(b"D\x7F\xFF\xFF\xFF");
            peer.until_closed();
        });
        let error = connection.identify_system().unwrap_err();
        drop(connection);
        server.join();
        assert!(matches!(error, WireError::Protocol { .. }), "{error:?}");
    }

    #[test]
    fn rows_that_come_with_the_answer_are_not_lost() {
        let (connection, server) = connected(|peer| {
            peer.query(
                "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p''\"\"q\"', messages 'true')",
            );
            let begin = fake::message(b'W', &[0, 0, 0]);
            let notice = fake::message(b'N', b"SLOG\0MHello\0\0");
            peer.send(&[notice, begin, b"early".to_vec()].concat());
        });
        let mut stream = connection.start_replication("s", "p'\"q", SourceFormat::Text).unwrap();
        server.join();
        assert_eq!(stream.backend_pid(), 4711);
        let mut bytes: Vec<u8> = Vec::new();
        let mut part = [0; 2];
        while bytes.len() < 5 {
            let count = stream.receive(&mut part, ANSWER).unwrap();
            assert_ne!(count, 0, "the stream ended early");
            bytes.extend(&part[..count]);
        }
        assert_eq!(bytes, b"early");
    }

    #[test]
    fn a_slot_in_use_is_said() {
        let (connection, server) = connected(|peer| {
            peer.query(
                "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p\"', messages 'true', binary 'true')",
            );
            peer.send(&fake::error("ERROR", "55006", "replication slot is active for PID 1"));
            peer.send(&fake::ready());
        });
        let error = connection.start_replication("s", "p", SourceFormat::Binary).unwrap_err();
        server.join();
        assert_eq!(error.sqlstate(), Some("55006"));
    }

    #[test]
    fn an_interrupt_ends_the_wait_for_a_slot() {
        let (asked, waits) = std::sync::mpsc::channel();
        let (mut connection, server) = connected(move |peer| {
            peer.request(b'Q');
            asked.send(()).unwrap();
            peer.until_closed();
        });
        let interrupt = connection.interrupt();
        let waiting = std::thread::spawn(move || connection.create_slot("s", false, false));
        waits.recv().unwrap();
        interrupt.interrupt();
        let error = waiting.join().unwrap().unwrap_err();
        server.join();
        assert!(matches!(error, WireError::Closed { .. } | WireError::Io { .. }), "{error:?}");
    }
}
