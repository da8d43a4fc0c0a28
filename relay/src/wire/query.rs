//! The simple query protocol.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use super::connection::{Connection, Patience};
use super::error::WireError;

/// A row of an answer: one text per column, `None` for NULL.
pub type Row = Vec<Option<String>>;

impl Connection {
    /// Sends one command and returns the rows of the answer. After an error of severity `ERROR` the
    /// connection takes further commands.
    pub(super) fn simple_query(
        &mut self,
        command: &str,
        doing: &'static str,
        patience: Patience,
    ) -> Result<Vec<Row>, WireError> {
        self.send(doing, |out| frontend::query(command, out))?;
        let mut rows = Vec::new();
        let mut refusal = None;
        loop {
            match self.receive(doing, patience) {
                Ok(Message::DataRow(body)) => rows.push(row(&body, doing)?),
                Ok(
                    Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse,
                ) => {}
                Ok(Message::ReadyForQuery(_)) => return refusal.map_or(Ok(rows), Err),
                Ok(_) => {
                    return Err(WireError::protocol(doing, "a message that does not belong to an answer"));
                }
                // The server says ReadyForQuery after an error too, unless the error ends the connection.
                Err(error @ WireError::Server { .. }) if refusal.is_none() => refusal = Some(error),
                Err(error) => return Err(refusal.unwrap_or(error)),
            }
        }
    }
}

fn row(body: &DataRowBody, doing: &'static str) -> Result<Row, WireError> {
    let malformed = |source| WireError::Protocol {
        doing,
        what: "a row that cannot be read".to_owned(),
        source: Some(source),
    };
    // The contents of a history file are sent as they are, whatever the client's encoding.
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&body.buffer()[range]).into_owned();
    body.ranges().map(|range| Ok(range.map(text))).collect().map_err(malformed)
}
