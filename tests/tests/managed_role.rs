//! Roles as managed services have them: no attribute REPLICATION, but membership in a role of the service's. As far as a
//! plain server shows it: what is asked of such a role, how one is made by somebody who may not give the attribute, and
//! what is said where the membership turns out to be worth nothing.

use outbox_schema::sql::relay_role_up;
use outbox_tests::cluster::{self, Postgres, usual_version};
use outbox_tests::scene::Scene;
use serde_json::Value;

fn replication_right(scene: &Scene<'_>) -> Value {
    let (_, text) = scene.config.command(&["check", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let found = report["findings"].as_array().unwrap().iter().find(|f| f["code"] == "replication-right");
    found.unwrap_or_else(|| panic!("nothing is said of the right in {report:#}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_services_replication_role_is_asked_for_no_attribute() {
    let postgres = Postgres::start(usual_version());
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "managed").await;
    let run = async |sql: &str| {
        scene.database.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    run("CREATE ROLE rds_replication NOLOGIN; GRANT rds_replication TO relay_managed").await;
    let right = replication_right(&scene);
    assert_eq!((&right["severity"], &right["seen"]), (&"ok".into(), &"may replicate".into()), "{right}");

    run("ALTER ROLE relay_managed NOREPLICATION").await;
    let said = scene.init(&[]);
    assert!(!said.contains("REPLICATION"), "a member needs no attribute\n{said}");
    // Elsewhere than on the service the membership is worth nothing, and the server's own words are handed on.
    let right = replication_right(&scene);
    assert_eq!(right["severity"], "error", "{right}");
    assert!(right["seen"].as_str().unwrap().contains("42501"), "{right}");
    let halted = scene.start_halts();
    assert!(halted.contains("rds_replication"), "{halted}");
    println!("proof: a member of rds_replication on a plain server: {}", right["seen"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_give_the_attribute_makes_the_role_a_member() {
    let postgres = Postgres::start(usual_version());
    let scene = Scene::prepare(&postgres, &cluster::shared().kafka, "managed_init").await;
    let run = async |sql: &str| {
        scene.database.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    run("CREATE ROLE rds_replication NOLOGIN;
         CREATE ROLE master CREATEROLE;
         GRANT rds_replication, outbox_relay TO master WITH ADMIN OPTION")
    .await;
    run(&format!("SET ROLE master; {}", relay_role_up("their_relay"))).await;
    run("RESET ROLE").await;
    let role = "SELECT format('%s %s %s %s', rolcanlogin, rolreplication,
                       pg_has_role(oid, 'rds_replication', 'MEMBER'), pg_has_role(oid, 'outbox_relay', 'MEMBER'))
                  FROM pg_roles WHERE rolname = 'their_relay'";
    assert_eq!(scene.text(role).await, "t f t t");
    // A superuser gives the attribute, whatever roles there are.
    run(&relay_role_up("our_relay")).await;
    let ours = "SELECT rolreplication::text FROM pg_roles WHERE rolname = 'our_relay'";
    assert_eq!(scene.text(ours).await, "true");
}
