//! Runs a plan on the server, one line per step.

use std::time::Duration;

use outbox_postgres_link::tls::Connector;
use outbox_postgres_link::url::ParsedUrl;
use secrecy::ExposeSecret;
use tokio_postgres::Client;

use super::InitError;
use super::plan::{Plan, Step, rows_sentence};
use super::survey;
use crate::commands::output;
use crate::config::Settings;
use outbox_schema::sql;

/// Connects as the admin. How the connection is protected was decided when the URL was read.
pub async fn connect(admin: &ParsedUrl, patience: Duration) -> Result<Client, InitError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&admin.host)
        .port(admin.port)
        .user(&admin.user)
        .dbname(&admin.database)
        .application_name(admin.application_name.as_deref().unwrap_or("outbox-relay init"))
        .connect_timeout(admin.connect_timeout.unwrap_or(patience));
    if let Some(password) = &admin.password {
        config.password(password.expose_secret());
    }
    let tls = Connector::new(&admin.transport, &admin.host, &mut config);
    let (client, connection) = config.connect(tls).await.map_err(InitError::Connect)?;
    // Ends with the client; what breaks it reaches the client's calls as errors.
    tokio::spawn(connection);
    Ok(client)
}

/// Runs the steps in order and stops at the first that fails.
///
/// # Errors
///
/// The step with what the server said, or the question what to do with rows that came while the slot was
/// being made.
pub async fn run(client: &Client, settings: &Settings, plan: &Plan) -> Result<(), InitError> {
    for step in &plan.steps {
        match step {
            Step::Present(what) => say("is there", what),
            Step::Note(sentence) => say("note", sentence),
            Step::Run { says, sql, private } => {
                // One message of several statements is one transaction (PostgreSQL's manual,
                // "Multiple Statements in a Simple Query"), so a role is
                // never left without its password.
                let private = private.as_ref().map_or("", |private| private.expose_secret());
                execute(client, says, &format!("{sql}\n{private}")).await?;
                say("done", says);
            }
            Step::MakeSlot { says, sql, only_if_empty } => {
                say("making", "the slot; this waits until every transaction that is open now has ended");
                execute(client, says, sql).await?;
                if *only_if_empty {
                    give_back_unless_empty(client, settings).await?;
                }
                say("done", says);
            }
        }
    }
    Ok(())
}

/// The table was empty before the slot was made. If it is not any more, it cannot be told whether those rows
/// come through the slot or were committed before it: the slot goes, and the question is asked.
async fn give_back_unless_empty(client: &Client, settings: &Settings) -> Result<(), InitError> {
    if !survey::has_rows(client, settings).await? {
        return Ok(());
    }
    let name = settings.slot();
    let drop = format!("SELECT pg_catalog.pg_drop_replication_slot({});", sql::quote_literal(&name));
    execute(client, &format!("slot {name} is dropped again, since rows came meanwhile"), &drop).await?;
    Err(InitError::Refused(rows_sentence(settings)))
}

async fn execute(client: &Client, says: &str, sql: &str) -> Result<(), InitError> {
    client.batch_execute(sql).await.map_err(|source| InitError::Step { step: says.into(), source })
}

fn say(state: &str, what: &str) {
    // A closed pipe must not stop half way what was begun.
    output::print(&format!("{state:<9} {what}\n"));
}
