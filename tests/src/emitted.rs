//! Scenes whose events are messages. A trigger on `outbox.events` emits every row as an event of the same id, so that
//! all that writes rows emits messages, and the history checker has the rows to judge by. No relay publishes the rows.

use crate::cluster::{Kafka, Postgres};
use crate::scene::{PARTITIONS, Scene};

/// Ids become version 7: of others the time of making is a header, and a message has its own.
const MIRROR: &str = "
    CREATE FUNCTION public.of_version_7() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF substr(NEW.id::text, 15, 1) <> '7' THEN NEW.id := outbox.uuid_v7(); END IF;
        RETURN NEW;
    END $$;
    CREATE FUNCTION public.mirror() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM outbox.emit(NEW.aggregatetype, NEW.aggregateid, NEW.type, NEW.payload, NEW.id, NEW.schema_version,
            NEW.version, NEW.partition_key, NEW.headers, NEW.traceparent);
        RETURN NULL;
    END $$;
    CREATE TRIGGER of_version_7 BEFORE INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION public.of_version_7();
    CREATE TRIGGER mirror AFTER INSERT ON outbox.events FOR EACH ROW EXECUTE FUNCTION public.mirror();";

/// Makes a scene whose relay reads messages; `init` has run, and rows of `outbox.events` are emitted.
///
/// # Panics
/// When a server does not answer or `init` fails.
pub async fn scene<'a>(postgres: &'a Postgres, kafka: &'a Kafka, name: &str) -> Scene<'a> {
    let scene = Scene::bare(postgres, kafka, name).await;
    let scene = scene.configured(|config| config.text("outbox.from", "messages"));
    kafka.create_topic(&scene.topic(), PARTITIONS, &[]).await;
    scene.init(&[]);
    scene.database.batch_execute(MIRROR).await.unwrap_or_else(|error| panic!("{error:?}"));
    scene
}
