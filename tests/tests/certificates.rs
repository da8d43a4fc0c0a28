//! Certificates that are renewed under a running relay, with another authority, on the server first: the relay refuses the
//! server and is refused until its files are renewed, too, and goes on without being started again.

use outbox_tests::authority::{Authority, Issued, write};
use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::scene::{LIMIT, Scene};
use outbox_tests::wait::eventually;
use tempfile::TempDir;

fn write_client(directory: &TempDir, client: &Issued) {
    write(directory.path(), "client.pem", &client.certificate);
    write(directory.path(), "client.key", &client.key);
}

/// Who issued the certificates that the relay shows on its connections.
async fn issuers(scene: &Scene<'_>) -> String {
    scene
        .text(
            "SELECT string_agg(DISTINCT coalesce(issuer_dn, 'nobody'), ', ')
               FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
              WHERE usename = 'cert_relay' AND application_name LIKE 'outbox-relay %'",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authority_are_renewed_without_a_restart() {
    let (former, next) = (Authority::new("the former authority"), Authority::new("the next authority"));
    let directory = TempDir::new().unwrap();
    let root = write(directory.path(), "root.pem", former.certificate());
    write_client(&directory, &former.client("cert_relay"));
    let postgres = Postgres::builder(usual_version()).tls(&former.server(&["localhost"]), &former).start();
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "certificates").await;
    let grant = "CREATE ROLE cert_relay LOGIN REPLICATION; GRANT relay_certificates TO cert_relay";
    scene.database.batch_execute(grant).await.unwrap();
    let of = |name: &str| directory.path().join(name).display().to_string();
    let source = format!(
        "postgres://cert_relay@localhost:{}/certificates?sslrootcert={root}&sslcert={}&sslkey={}",
        postgres.port(),
        of("client.pem"),
        of("client.key")
    );
    let scene = scene.configured(|config| config.text("source.url", &source));
    let relay = scene.start();
    scene.insert(20).await;
    scene.verdict().await.assert_pass();
    assert_eq!(issuers(&scene).await, "/CN=the former authority", "{}", relay.log());

    let waits_for = |what: &str| {
        eventually(LIMIT, what, || {
            assert_eq!(relay.ended(), None, "it waits for its files\n{}", relay.log());
            relay.log().contains(what).then_some(())
        });
    };
    postgres.change_authority(&next.server(&["localhost"]), &next).await;
    postgres.terminate_backends("usename = 'cert_relay'").await;
    scene.insert(20).await;
    waits_for("is signed by nobody the relay trusts");
    write(directory.path(), "root.pem", next.certificate());
    waits_for("the server refused the relay's own certificate");
    write_client(&directory, &next.client("cert_relay"));
    let verdict = scene.verdict().await;
    verdict.assert_pass();
    assert_eq!(verdict.committed, 40);
    assert_eq!(issuers(&scene).await, "/CN=the next authority", "{}", relay.log());
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    println!("proof: authority and certificates renewed under a running relay: {verdict}");
}
