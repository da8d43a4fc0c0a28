//! The tool itself: what it says about mistakes, and how it connects.

use std::process::Command;

use outbox_schema::sql::inbox::{CONSUMER_ROLE, up};
use outbox_tests::authority::{Authority, write as write_file};
use outbox_tests::cluster::{Postgres, usual_version};
use outbox_tests::inbox::server;

use super::{Ended, Stage, ended, says, tool};

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_sentences() {
    let stage = Stage::prepare("dlq_mistakes").await;
    let mut none = stage.command(&["list"]);
    none.env_remove("DATABASE_URL");
    let mut no_url = stage.command(&["list"]);
    no_url.env("DATABASE_URL", "postgres://a@127.0.0.1:x/d");
    // All at once, those of PostgreSQL and of Kafka.
    let mut several = stage.command(&["project", "--group", "g"]);
    several.env("DATABASE_URL", "postgres://a:hush@db.example/d?sslmode=allow&options=x");
    several.env("PGPASSWORD", "hush").env("PGPASSWORD_FILE", "/nowhere/password").env_remove("KAFKA_BROKERS");
    for (command, sentences) in [
        (none, &["set DATABASE_URL or give --database-url"][..]),
        (no_url, &["DATABASE_URL: host, port or percent-encoding cannot be read"]),
        (
            several,
            &[
                "sslmode=allow",
                "parameter options is not known",
                "PGPASSWORD, PGPASSWORD_FILE; keep one",
                "/nowhere/password cannot be",
                "set KAFKA_BROKERS or give --brokers",
            ],
        ),
    ] {
        let Ended { code, err, .. } = ended(command);
        assert_eq!(code, Some(64), "{err}");
        says(&err, sentences);
        assert!(!err.contains("hush"), "{err}");
    }
    stage.inbox.admin.run("REVOKE outbox_consumer FROM dlq_mistakes").await;
    says(
        &stage.fails(&["list"]),
        &["role dlq_mistakes may not do that", "GRANT outbox_consumer TO dlq_mistakes"],
    );
    let mut elsewhere = stage.command(&["list"]);
    elsewhere.env("DATABASE_URL", server().url("postgres"));
    says(&ended(elsewhere).err, &["there is no inbox in database \"postgres\""]);
    let topics = "group dlq_nobody has no dead-letter topic";
    stage.inbox.admin.run("GRANT outbox_consumer TO dlq_mistakes").await;
    says(&stage.fails(&["project", "--group", "dlq_nobody"]), &[topics]);
}

/// The rules are the relay's, tested in `link`; here it is seen that the tool goes by them.
#[tokio::test(flavor = "multi_thread")]
async fn the_tool_connects_over_tls_and_takes_its_password_from_one_place() {
    let authority = Authority::new("the authority");
    let directory = tempfile::tempdir().unwrap();
    let ca = write_file(directory.path(), "ca.pem", authority.certificate());
    let password = write_file(directory.path(), "password", "a word\n");
    let postgres =
        Postgres::builder(usual_version()).tls(&authority.server(&["localhost"]), &authority).start();
    let admin = postgres.connect("postgres").await;
    let role = format!("CREATE ROLE oncall LOGIN PASSWORD 'a word'; GRANT {CONSUMER_ROLE} TO oncall");
    admin.batch_execute(&format!("BEGIN; {}; {role}; COMMIT", up())).await.unwrap();
    let list = |parameters: &str, variables: &[(&str, &str)]| {
        let url = format!("postgres://oncall@localhost:{}/postgres?{parameters}", postgres.port());
        let mut command = Command::new(tool());
        command.args(["list", "--json"]).env("DATABASE_URL", url).envs(variables.iter().copied());
        ended(command)
    };
    // The server lets this role in over TLS only.
    let trusted = format!("sslrootcert={ca}&channel_binding=require");
    for variable in [("PGPASSWORD", "a word"), ("PGPASSWORD_FILE", password.as_str())] {
        let Ended { code, out, err } = list(&trusted, &[variable]);
        assert_eq!((code, out.as_str()), (Some(0), "{\"letters\":[],\"more\":false}\n"), "{err}");
    }
    let both = list(&trusted, &[("PGPASSWORD", "a word"), ("PGPASSWORD_FILE", &password)]);
    assert_eq!(both.code, Some(64));
    says(&both.err, &["the password is given more than once"]);
    let clear = list("sslmode=disable", &[("PGPASSWORD", "a word")]);
    assert_eq!(clear.code, Some(1));
    says(&clear.err, &["no login to PostgreSQL at localhost", "no encryption"]);
    let stranger = list("sslmode=verify-full", &[("PGPASSWORD", "a word")]);
    says(&stranger.err, &["is signed by nobody the consumer trusts"]);
    assert!(![both.err, clear.err, stranger.err].concat().contains("a word"));
}
