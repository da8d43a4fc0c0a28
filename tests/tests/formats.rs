//! Forms of values and shapes of tables: the binary stream makes the same records as the text stream, payloads
//! of every type arrive as they are, rules route, and names are whatever PostgreSQL allows.

use std::collections::BTreeMap;

use outbox_relay::router::binary::{Binary, Written};
use outbox_tests::cluster;
use outbox_tests::history::log::Isolation;
use outbox_tests::history::{Log, Published};
use outbox_tests::relay::{Relay, RelayConfig};
use outbox_tests::scene::{LIMIT, PARTITIONS, Scene};
use outbox_tests::wait::eventually;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// Both forms of the stream.
const FORMS: [&str; 2] = ["text", "binary"];

/// What the replication session sets, for a session that shall write the same text.
const AS_REPLICATION: &str = "SET datestyle = 'ISO'; SET timezone = 'UTC'; SET extra_float_digits = 3;
                              SET bytea_output = 'hex'";

async fn bare(name: &str) -> Scene<'static> {
    let servers = cluster::shared();
    Scene::bare(&servers.postgres, &servers.kafka, name).await
}

/// A relay of its own name in the scene's database: another slot, the same role.
fn relay_config(scene: &Scene<'_>, name: &str, table: &str, form: &str) -> RelayConfig {
    scene.config.clone().text("name", name).text("outbox.table", table).text("source.format", form)
}

fn init(scene: &Scene<'_>, config: &RelayConfig) {
    let (status, said) = config.init(&scene.postgres.url(&scene.name), &[]);
    assert!(status.success(), "init: {status}\n{said}");
}

/// Waits until a relay streams.
#[track_caller]
fn wait_streaming(relay: &Relay) {
    relay.wait_status(LIMIT, "the relay to stream", |status| (status["phase"] == "streaming").then_some(()));
}

async fn create_topic(topic: &str) {
    cluster::shared().kafka.create_topic(topic, PARTITIONS, &[]).await;
}

/// Waits until a topic holds `count` records and answers what it holds.
#[track_caller]
fn records(topic: &str, count: usize) -> Vec<Published> {
    let mut log = Log::open(&cluster::shared().kafka.brokers(), &[topic], Isolation::ReadUncommitted);
    eventually(LIMIT, "records on the topic", || {
        log.catch_up();
        (log.records().len() >= count).then(|| log.records().to_vec())
    })
}

/// The seed of a test's random values.
fn random(name: &str) -> rand::rngs::StdRng {
    let seed = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("{name}: OUTBOX_TEST_SEED={seed}");
    rand::rngs::StdRng::seed_from_u64(seed)
}

/// Compares what the relay writes with what the server writes, value by value; answers how many there were.
async fn agree(
    client: &Client,
    type_name: &str,
    send: &str,
    values: &str,
    parameter: &(dyn ToSql + Sync),
) -> usize {
    let sql =
        format!("SELECT '{type_name}'::regtype::oid, format('%s', v), {send}(v) FROM ({values}) AS x(v)");
    let rows =
        client.query(&sql, &[parameter]).await.unwrap_or_else(|error| panic!("{type_name}: {error:?}"));
    for row in &rows {
        let (oid, theirs, value): (u32, String, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
        let mut out = Vec::new();
        let ours = match Binary::of(oid).unwrap().text(&value, &mut out) {
            Some(Written::Same(text)) => text.to_vec(),
            Some(Written::Appended) => out,
            None => panic!("{type_name}: {theirs} is not written"),
        };
        assert_eq!(String::from_utf8_lossy(&ours), theirs, "{type_name} from {value:02x?}");
    }
    rows.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_written_as_the_server_writes_them() {
    let mut random = random("values");
    let client = cluster::shared().postgres.connect("postgres").await;
    client.batch_execute(AS_REPLICATION).await.unwrap();
    let mut count = 0;

    let mut doubles: Vec<f64> = (0..20_000).map(|_| f64::from_bits(random.random())).collect();
    // Powers of two, where the neighbours are not evenly spaced, and decimals half way between numbers.
    doubles.extend((-1074..=1023).map(|n| 2f64.powi(n)));
    doubles.extend((-320..=308).map(|n| format!("1e{n}").parse::<f64>().unwrap()));
    doubles.extend((0..2_000).map(|_| (1u64 << 50) as f64 + random.random_range(0..1u64 << 51) as f64 / 4.0));
    doubles.extend((0..2_000).map(|_| random.random_range(0..1u64 << 60) as f64));
    doubles.extend([0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE]);
    let values = "SELECT unnest($1::float8[])";
    count += agree(&client, "float8", "float8send", values, &doubles).await;

    let mut singles: Vec<f32> = (0..20_000).map(|_| f32::from_bits(random.random())).collect();
    singles.extend((-149..=127).map(|n| 2f32.powi(n)));
    singles.extend((-45..=38).map(|n| format!("1e{n}").parse::<f32>().unwrap()));
    singles.extend((0..2_000).map(|_| (1u32 << 21) as f32 + random.random_range(0..1u32 << 22) as f32 / 4.0));
    let values = "SELECT unnest($1::float4[])";
    count += agree(&client, "float4", "float4send", values, &singles).await;

    let mut numbers: Vec<String> = (0..5_000)
        .map(|_| {
            let mut digits = |most: usize| -> String {
                let length = random.random_range(0..most);
                (0..length).map(|_| char::from(b"0000123456789"[random.random_range(0..13)])).collect()
            };
            let sign = if digits(3).len() == 1 { "-" } else { "" };
            format!("{sign}0{}.{}", digits(40), digits(30)).trim_end_matches('.').to_owned()
        })
        .collect();
    numbers.extend(["NaN", "Infinity", "-Infinity", "1e131071", "1e-16383", "0e-100"].map(str::to_owned));
    let values = "SELECT unnest($1::text[])::numeric";
    count += agree(&client, "numeric", "numeric_send", values, &numbers).await;

    let mut micros: Vec<i64> =
        (0..5_000).map(|_| random.random_range(-210_000_000..9_100_000_000i64)).collect();
    micros.extend([0, 1, -1]);
    // Three parts, since no single one reaches over all of PostgreSQL's time.
    let times = "(SELECT '2000-01-01'::timestamp + make_interval(days => (n / 86)::int, secs => n % 100 + n % 7 / 7.0)
                  FROM unnest($1::int8[]) n)
                 UNION ALL SELECT unnest(ARRAY['infinity', '-infinity', '4713-01-01 BC', '0001-12-31 23:59:59.9 BC',
                  '0001-01-01', '294276-12-31 23:59:59.999999']::timestamp[])";
    count += agree(&client, "timestamp", "timestamp_send", times, &micros).await;
    let zoned = format!("SELECT t AT TIME ZONE 'UTC' FROM ({times}) AS y(t)");
    count += agree(&client, "timestamptz", "timestamptz_send", &zoned, &micros).await;
    let dates = format!("SELECT t::date FROM ({times}) AS y(t) UNION ALL SELECT '5874897-12-31'::date");
    count += agree(&client, "date", "date_send", &dates, &micros).await;
    let clocks =
        format!("SELECT t::time FROM ({times}) AS y(t) WHERE isfinite(t) UNION ALL SELECT '24:00'::time");
    count += agree(&client, "time", "time_send", &clocks, &micros).await;

    for (name, send, values) in [
        (
            "int2",
            "int2send",
            "SELECT n::int2 FROM unnest($1::int8[]) n WHERE abs(n) < 32768 UNION ALL SELECT '-32768'",
        ),
        ("int4", "int4send", "SELECT (n % 2147483648)::int4 FROM unnest($1::int8[]) n"),
        ("int8", "int8send", "SELECT n * 1000000007 FROM unnest($1::int8[]) n"),
        ("oid", "oidsend", "SELECT (abs(n) % 4294967296)::oid FROM unnest($1::int8[]) n"),
        ("xid8", "xid8send", "SELECT abs(n)::text::xid8 FROM unnest($1::int8[]) n"),
        ("bool", "boolsend", "SELECT n % 2 = 0 FROM unnest($1::int8[]) n"),
        ("uuid", "uuid_send", "SELECT md5(n::text)::uuid FROM unnest($1::int8[]) n"),
        ("bytea", "byteasend", "SELECT decode(md5(n::text), 'hex') FROM unnest($1::int8[]) n"),
        ("name", "namesend", "SELECT ('größe ' || n)::name FROM unnest($1::int8[]) n"),
        ("bpchar", "bpcharsend", "SELECT n::char(20)::bpchar FROM unnest($1::int8[]) n"),
        (
            "json",
            "json_send",
            "SELECT format('{\"b\" : %s.50, \"a\":\"\\u00e9日\"}', n)::json FROM unnest($1::int8[]) n",
        ),
        (
            "jsonb",
            "jsonb_send",
            "SELECT format('{\"b\" : %s.50, \"a\":\"\\u00e9日\"}', n)::jsonb FROM unnest($1::int8[]) n",
        ),
    ] {
        count += agree(&client, name, send, values, &micros).await;
    }
    assert!(count > 100_000, "{count}");
    println!("proof: {count} values of 19 types written as the server writes them");
}

/// Every type that has a binary form here, in columns that headers are made of, and some that have none.
const MANY: &str = "
    CREATE DOMAIN public.positive AS int4 CHECK (value > 0);
    CREATE DOMAIN public.price AS numeric(12, 4);
    CREATE DOMAIN public.fine_price AS public.price CHECK (value > 0);
    CREATE DOMAIN public.document AS jsonb;
    CREATE TYPE public.mood AS ENUM ('glad', 'sad');
    CREATE TABLE public.many (
        c_bool bool, c_int2 int2, c_int4 int4, c_int8 int8, c_oid oid, c_xid8 xid8, c_float4 float4, c_float8 float8,
        c_numeric numeric, c_scaled numeric(20, 4), c_date date, c_time time, c_timestamp timestamp,
        c_timestamptz timestamptz, c_uuid uuid, c_name name, c_bpchar char(9), c_text text, c_varchar varchar(20),
        c_bytea bytea, c_json json, c_jsonb jsonb, c_positive public.positive, c_price public.fine_price,
        tags text[], mood public.mood,
        id uuid DEFAULT gen_random_uuid(), aggregatetype name DEFAULT 'formats_many', aggregateid int8,
        partition_key bytea, type varchar(40) DEFAULT 'Made', payload public.document, headers jsonb, version int4,
        schema_version int2, traceparent char(8), created_at timestamp DEFAULT clock_timestamp())";

const MANY_COLUMNS: [&str; 24] = [
    "c_bool",
    "c_int2",
    "c_int4",
    "c_int8",
    "c_oid",
    "c_xid8",
    "c_float4",
    "c_float8",
    "c_numeric",
    "c_scaled",
    "c_date",
    "c_time",
    "c_timestamp",
    "c_timestamptz",
    "c_uuid",
    "c_name",
    "c_bpchar",
    "c_text",
    "c_varchar",
    "c_bytea",
    "c_json",
    "c_jsonb",
    "c_positive",
    "c_price",
];

/// Random rows, one in eight values NULL.
fn insert_many(from: u32, rows: u32) -> String {
    let maybe = |value: &str| format!("CASE WHEN random() > 0.125 THEN {value} END");
    let float = "(random() - 0.5) * 10 ^ (random() * 60 - 30)";
    let numeric = "round(((random() - 0.5) * 10 ^ (random() * 30 - 10))::numeric, (random() * 12)::int)";
    let time = "'0001-01-01'::timestamp + random() * interval '9990 years'";
    let values = [
        ("c_bool", "random() > 0.5"),
        ("c_int2", "(random() * 65535 - 32768)::int2"),
        ("c_int4", "(random() * 4e9 - 2e9)::int4"),
        ("c_int8", "(random() * 1.8e19 - 9e18)::int8"),
        ("c_oid", "(random() * 4e9)::int8::oid"),
        ("c_xid8", "(random() * 9e18)::int8::text::xid8"),
        ("c_float4", &format!("({float})::float4")),
        ("c_float8", float),
        ("c_numeric", numeric),
        ("c_scaled", "(random() * 1e12)::numeric(20, 4)"),
        ("c_date", &format!("({time})::date")),
        ("c_time", &format!("({time})::time")),
        ("c_timestamp", time),
        ("c_timestamptz", &format!("({time}) AT TIME ZONE 'UTC'")),
        ("c_uuid", "gen_random_uuid()"),
        ("c_name", "'größe ' || i"),
        ("c_bpchar", "i::text"),
        ("c_text", "repeat('日付 ', i % 50)"),
        ("c_varchar", "i::text"),
        ("c_bytea", "decode(md5(i::text), 'hex')"),
        ("c_json", "format('{\"b\" : %s.50,  \"a\":\"\\u00e9\"}', i)::json"),
        ("c_jsonb", "format('{\"b\" : %s.50,  \"a\":\"\\u00e9\"}', i)::jsonb"),
        ("c_positive", "i + 1"),
        ("c_price", "i + 0.5"),
        ("tags", "ARRAY['a', 'b']"),
        ("mood", "'glad'::public.mood"),
        ("partition_key", "decode(md5(i::text), 'hex')"),
        ("payload", "jsonb_build_object('n', i, 'text', 'größe')"),
        ("headers", "'{\"z\": 1.50, \"a\": \"x\"}'::jsonb"),
        ("version", "i"),
        ("schema_version", "(i % 3 + 1)::int2"),
        ("traceparent", "'00-ab'"),
    ];
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = values.iter().map(|(_, value)| maybe(value)).collect();
    format!(
        "INSERT INTO public.many (aggregateid, {}) SELECT i, {} FROM generate_series({from}, {}) i",
        names.join(", "),
        values.join(", "),
        from + rows - 1
    )
}

/// What may not differ between two topics: everything but topic and offset.
fn comparable(records: &[Published]) -> BTreeMap<String, &Published> {
    records.iter().map(|record| (record.id().unwrap().to_owned(), record)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_binary_streams_make_the_same_records() {
    const ROWS: u32 = 600;
    let scene = bare("formats_many").await;
    scene.database.batch_execute(MANY).await.unwrap();
    let mut relays = Vec::new();
    for form in FORMS {
        create_topic(&format!("{form}.formats_many")).await;
        let config = relay_config(&scene, &format!("formats_many_{form}"), "public.many", form)
            .text("kafka.topic_prefix", &format!("{form}."));
        let mut config =
            ["version", "schema_version", "partition_key", "headers", "traceparent", "created_at"]
                .into_iter()
                .fold(config, |config, part| config.text(&format!("outbox.columns.{part}"), part));
        for column in MANY_COLUMNS {
            config = config.text(&format!("headers.h_{column}"), &format!("<{{{column}}}>"));
        }
        init(&scene, &config);
        relays.push(Relay::start(&config));
    }
    relays.iter().for_each(wait_streaming);
    scene.database.batch_execute(&insert_many(1, ROWS)).await.unwrap();
    let edges = "INSERT INTO public.many (aggregateid, c_float8, c_numeric, c_date, c_timestamp) VALUES
                 (0, 'NaN', 'Infinity', 'infinity', '-infinity'),
                 (0, '1e23', '-0.00', '4713-01-01 BC', '294276-12-31 23:59:59.999999')";
    scene.database.batch_execute(edges).await.unwrap();

    let count = ROWS as usize + 2;
    let [text, binary] = FORMS.map(|form| records(&format!("{form}.formats_many"), count));
    assert_eq!((text.len(), binary.len()), (count, count));
    let (texts, binaries) = (comparable(&text), comparable(&binary));
    assert_eq!(texts.len(), count);
    let mut headers = 0;
    for (id, text) in &texts {
        let binary = binaries[id];
        assert_eq!(text.headers, binary.headers);
        assert_eq!((&text.key, &text.value, text.partition), (&binary.key, &binary.value, binary.partition));
        headers += text.headers.len();
    }
    for column in MANY_COLUMNS {
        let name = format!("h_{column}");
        let seen =
            text.iter().filter(|record| record.headers.iter().any(|(header, _)| *header == name)).count();
        assert!(seen > count / 2, "{name} was compared {seen} times only");
    }
    // It was binary: the server says so.
    let sent = scene
        .text("SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE backend_type = 'walsender'")
        .await;
    assert!(sent.contains("binary 'true'"), "{sent}");
    for relay in &relays {
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    }
    println!("proof: {count} rows with {headers} headers are the same records from text and binary streams");
}

/// Types of payloads: how one is written in SQL, and the bytes that stand on the topic.
const PAYLOADS: [(&str, &str, &str); 6] = [
    ("json", "'{ \"b\" : 1.50, \"a\":\"\\u00e9\" }'", "{ \"b\" : 1.50, \"a\":\"\\u00e9\" }"),
    ("jsonb", "'{ \"b\" : 1.50, \"a\":\"\\u00e9\" }'", "{\"a\": \"é\", \"b\": 1.50}"),
    ("text", "E'größe\\n日付 '", "größe\n日付 "),
    ("varchar(20)", "'größe'", "größe"),
    ("bytea", "'\\xc3a9006a'", "é\0j"),
    ("public.blob", "'\\x006a'", "\0j"),
];

async fn payloads(form: &str) {
    let scene = bare(&format!("formats_payload_{form}")).await;
    scene.database.batch_execute("CREATE DOMAIN public.blob AS bytea").await.unwrap();
    let mut relays = Vec::new();
    for (at, (kind, literal, _)) in PAYLOADS.iter().enumerate() {
        let (table, topic) = (format!("public.outbox_{at}"), format!("formats_payload.{form}.{at}"));
        create_topic(&topic).await;
        // What stands in the table when the relay starts comes by the fill, the rest by the stream.
        let make = format!(
            "CREATE TABLE {table} (payload {kind}, type text, aggregateid text, aggregatetype text,
                                   seq bigint GENERATED ALWAYS AS IDENTITY, id uuid DEFAULT gen_random_uuid());
             INSERT INTO {table} (payload, type, aggregateid) VALUES ({literal}, 'Filled', 'k'), (NULL, 'Filled', 'n')"
        );
        scene.database.batch_execute(&make).await.unwrap();
        let config = relay_config(&scene, &format!("formats_payload_{form}_{at}"), &table, form)
            .text("route.topic", &topic)
            .text("outbox.columns.seq", "seq")
            .text("start.existing", "publish");
        init(&scene, &config);
        relays.push(Relay::start(&config));
    }
    relays.iter().for_each(wait_streaming);
    for (at, (kind, literal, expected)) in PAYLOADS.iter().enumerate() {
        let insert = format!(
            "INSERT INTO public.outbox_{at} (payload, type, aggregateid) VALUES
             ({literal}, 'Streamed', 'k'), (NULL, 'Streamed', 'n')"
        );
        scene.database.batch_execute(&insert).await.unwrap();
        let records = records(&format!("formats_payload.{form}.{at}"), 4);
        assert_eq!(records.len(), 4, "{kind}");
        for record in records {
            let expected = (record.key.as_deref() == Some(b"k")).then_some(expected.as_bytes());
            assert_eq!(record.value.as_deref(), expected, "{kind}, {:?}", record.header("type"));
        }
    }
    for relay in &relays {
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    }
    println!("proof: payloads of {} types and NULL, filled and streamed as {form}", PAYLOADS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_every_type_arrive_as_they_are_from_a_text_stream() {
    payloads("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_every_type_arrive_as_they_are_from_a_binary_stream() {
    payloads("binary").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_cannot_be_read_in_binary_form_halts_by_name_and_text_goes_on() {
    let scene = bare("formats_enum").await;
    let make = "CREATE TYPE public.kind AS ENUM ('Made');
                CREATE TABLE public.outbox (id uuid DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text,
                                            type public.kind, payload text)";
    scene.database.batch_execute(make).await.unwrap();
    create_topic(&scene.topic()).await;
    let config = |form| relay_config(&scene, "formats_enum", "public.outbox", form);
    init(&scene, &config("binary"));
    let insert =
        "INSERT INTO public.outbox (aggregatetype, aggregateid, type) VALUES ('formats_enum', 'k', 'Made')";
    scene.database.batch_execute(insert).await.unwrap();
    let relay = Relay::start(&config("binary"));
    let status = relay.wait_exit(LIMIT);
    let log = relay.log();
    assert_eq!(status.code(), Some(3), "{log}");
    let oid = scene.text("SELECT 'public.kind'::regtype::oid::text").await;
    for word in ["column \"type\"", &format!("{oid}::regtype"), "source.format"] {
        assert!(log.replace("\\\"", "\"").contains(word), "`{word}` is missing in\n{log}");
    }
    let relay = Relay::start(&config("text"));
    let records = records(&scene.topic(), 1);
    assert_eq!(records[0].header("type"), Some("Made"));
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_make_topic_key_and_headers() {
    let scene = bare("formats_rules").await;
    let make = "CREATE TABLE public.outbox (id uuid DEFAULT gen_random_uuid(), kind text, entity text, tenant int,
                                            region text, payload json, internal text DEFAULT 'not published')";
    scene.database.batch_execute(make).await.unwrap();
    for topic in ["formats_rules.shop.eu", "formats_rules.other"] {
        create_topic(topic).await;
    }
    let config = relay_config(&scene, "formats_rules", "public.outbox", "text")
        .text("outbox.columns.type", "kind")
        .text("route.topic", "formats_rules.{kind}.{region}")
        .text("route.regex", r"formats_rules\.(?<kind>shop|other)\.(?:.*)(eu)?")
        .text("route.replacement", "formats_rules.shop.eu")
        .text("route.key", "{tenant}/{entity}")
        .text("headers.tenant", "{tenant}")
        .text("headers.X-Where", "{{{region}}}");
    // A column that a rule names and the table lacks is found before anything runs.
    let wrong = config.clone().text("headers.wrong", "{nowhere}");
    let (status, said) = wrong.init(&scene.postgres.url(&scene.name), &[]);
    assert!(!status.success() && said.contains("nowhere"), "{said}");
    init(&scene, &config);
    let published =
        "SELECT array_to_string(attnames, ' ') FROM pg_publication_tables WHERE tablename = 'outbox'";
    assert_eq!(scene.text(published).await, "id kind entity tenant region payload");

    let relay = Relay::start(&config);
    wait_streaming(&relay);
    let insert = "INSERT INTO public.outbox (kind, entity, tenant, region, payload) VALUES
                  ('shop', 'o-1', 7, 'eu', '1'), ('shop', 'o-2', 7, '', '2')";
    scene.database.batch_execute(insert).await.unwrap();
    let mut records = records("formats_rules.shop.eu", 2);
    records.sort_by(|one, other| one.key.cmp(&other.key));
    let [first, second] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(first.key.as_deref(), Some(&b"7/o-1"[..]));
    let headers: Vec<&str> = first.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(headers, ["id", "type", "position", "X-Where", "tenant"]);
    assert_eq!((first.header("X-Where"), second.header("X-Where")), (Some("{eu}"), Some("{}")));
    assert_eq!(first.header("tenant"), Some("7"));
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_whatever_names_and_columns_they_have() {
    for form in FORMS {
        let scene = bare(&format!("formats_names_{form}")).await;
        let topic = format!("formats_names.{form}");
        create_topic(&topic).await;
        let make = r#"
            CREATE SCHEMA "Événements";
            CREATE TABLE "Événements"."Ausgang Tabelle" (
                "日付" timestamp, gone_first text, "Payload ""quoted""" bytea, length_of_payload int GENERATED ALWAYS AS
                (length("Payload ""quoted""")) STORED, "select" text NOT NULL, gone int, "Größe" numeric(6, 2),
                "Back\slash" uuid DEFAULT gen_random_uuid(), "a.b" text, "Ordnung" int GENERATED ALWAYS AS IDENTITY);
            ALTER TABLE "Événements"."Ausgang Tabelle" DROP COLUMN gone_first, DROP COLUMN gone;
            INSERT INTO "Événements"."Ausgang Tabelle" VALUES
                ('2026-11-21 02:35:50.5', '\x00ff', DEFAULT, 'Filled', 1.5, DEFAULT, 'k')"#;
        scene.database.batch_execute(make).await.unwrap();
        let table = r#""Événements"."Ausgang Tabelle""#;
        let config = relay_config(&scene, &scene.name, table, form)
            .text("outbox.columns.id", r"Back\slash")
            .text("outbox.columns.type", "select")
            .text("outbox.columns.aggregateid", "a.b")
            .text("outbox.columns.payload", "Payload \"quoted\"")
            .text("outbox.columns.created_at", "日付")
            .text("outbox.columns.seq", "Ordnung")
            .text("route.topic", &topic)
            .text("headers.\"größe\"", "{Größe}")
            .text("start.existing", "publish");
        // The server does not stream what it computes; that is said when it is set up.
        let generated = config.clone().text("headers.length", "{length_of_payload}");
        let (status, said) = generated.init(&scene.postgres.url(&scene.name), &[]);
        assert!(!status.success() && said.contains("length_of_payload"), "{said}");
        init(&scene, &config);
        let relay = Relay::start(&config);
        wait_streaming(&relay);
        let insert = r#"INSERT INTO "Événements"."Ausgang Tabelle" ("select", "a.b", "Payload ""quoted""", "日付", "Größe")
                        VALUES ('Streamed', 'k', '\x00ff', '2026-11-21 02:35:50.5', 1.5)"#;
        scene.database.batch_execute(insert).await.unwrap();
        // A column more, and another order of rows' values.
        let change = r#"ALTER TABLE "Événements"."Ausgang Tabelle" ADD COLUMN "später" text DEFAULT 'x'"#;
        scene.database.batch_execute(change).await.unwrap();
        scene.database.batch_execute(insert).await.unwrap();
        let records = records(&topic, 3);
        let types: Vec<_> = records.iter().filter_map(|record| record.header("type")).collect();
        assert_eq!(types, ["Filled", "Streamed", "Streamed"], "{form}");
        for record in &records {
            assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
            assert_eq!(record.value.as_deref(), Some(&b"\x00\xFF"[..]));
            assert_eq!(record.header("created_at"), Some("2026-11-21T02:35:50.500000Z"));
            assert_eq!(record.header("größe"), Some("1.50"));
        }
        assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
    }
}
