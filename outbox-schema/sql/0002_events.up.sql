-- The outbox table.
--
-- Every service pays for it in its own transactions, so what a row costs was measured: microseconds of one core
-- on PostgreSQL 15, payloads of 200 bytes, the plain five-column table of Debezium beside it.
--
--                                        Debezium   this   with traceparent   with headers
--   300,000 rows by one statement             3.5    3.9                4.4            4.7
--   one row in a transaction of its own       8.4   18
--   the same by outbox.enqueue()                    21
--   (a transaction that only draws an xid     3.5)
--
-- What was learned on the way, so that it is not undone:
--
--   * A bounded repetition in a regular expression is dear: '^[A-Za-z0-9._-]{1,236}$' alone costs 4.1 a row, with
--     + and the length beside it 0.1.
--   * octet_length(payload::text) copies the payload twice; pg_column_size(payload) reads a length.
--   * Every statement parses and plans the stored trees of all CHECKs anew, about 2 for each kilobyte of tree. A
--     CHECK for each column made the single row cost 26 to 32. So there is one, and its tree is a call of a
--     PL/pgSQL function (an SQL function would be inlined, so planned again in every statement). It also says
--     which column is wrong in words, and spares outbox.enqueue() from looking first.
--   * SET search_path costs each call of a function about 1. The functions here do without: they run with the
--     rights of whoever inserts, and name what is not in pg_catalog by its schema.
--   * Partitions cost next to nothing.

-- Order of the rows when the relay publishes from the table. CACHE 1, so that sessions do not hold back
-- ranges: numbers are drawn in the order of the INSERTs. (An identity column would do the same, but a
-- partitioned table may have one from PostgreSQL 17 on only.)
CREATE SEQUENCE outbox.events_seq AS bigint CACHE 1;

-- RFC 9562 version 7: 48 bits of Unix milliseconds, the rest random. The time replaces the first six bytes
-- of a random version 4; its version nibble 0100 becomes 0111 by two bits. 1.3 microseconds, of which
-- gen_random_uuid() takes 0.85; date_part() and not extract(), which computes in numeric.
CREATE FUNCTION outbox.uuid_v7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN encode(
        set_bit(
            set_bit(
                overlay(
                    uuid_send(gen_random_uuid())
                    PLACING substring(int8send(floor(date_part('epoch', clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6),
                52, 1),
            53, 1),
        'hex')::uuid;

COMMENT ON FUNCTION outbox.uuid_v7() IS
    'A version-7 UUID (RFC 9562): the time in milliseconds, then random bits.';

REVOKE EXECUTE ON FUNCTION outbox.uuid_v7() FROM PUBLIC;

-- Refuses what could not be published, in the producer's transaction and not later in the relay: an error that
-- names the column and what is expected of it, or true. Values are not repeated: they may be personal data, and
-- errors end in logs. (The error of an ordinary CHECK prints the whole row there.)
--
-- aggregatetype: Kafka allows these characters and 249 of them in a topic's name; 13 are 'outbox.event.'.
-- headers: each member becomes one header, so they are scalars. Names that the relay writes itself and the empty
--   name are refused. The path is strict, because a lax one looks into arrays and does not see empty ones.
-- traceparent: W3C, version-traceid-parentid-flags in lower-case hex. LIKE sets length and dashes; no dash may
--   stand where a digit has to.
-- payload: so that with key and headers the record stays below the 1 MB that brokers take by default.
--   pg_column_size() is the length as it is held: exact, unless the value comes compressed from another table. No
--   compression of PostgreSQL shrinks by more than 255, so what is held in 3,500 bytes is within the limit either
--   way, and only what is larger is unpacked and counted.
CREATE FUNCTION outbox.check_event(
    aggregatetype  text,
    aggregateid    text,
    type           text,
    schema_version integer,
    version        bigint,
    partition_key  text,
    headers        jsonb,
    traceparent    text,
    payload        json
) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $function$
DECLARE
    mistake CONSTANT text := CASE
        WHEN octet_length(aggregatetype) > 236 OR aggregatetype !~ '^[A-Za-z0-9._-]+$' THEN 'aggregatetype'
        WHEN aggregateid = '' OR octet_length(aggregateid) > 512 THEN 'aggregateid'
        WHEN type = '' OR octet_length(type) > 255 THEN 'type'
        WHEN schema_version < 1 THEN 'schema_version'
        WHEN version < 0 THEN 'version'
        WHEN partition_key = '' OR octet_length(partition_key) > 512 THEN 'partition_key'
        WHEN pg_column_size(payload) > 3500 AND octet_length(payload::text) > 900000 THEN 'payload'
        WHEN headers IS NOT NULL AND outbox.headers_mistake(headers) IS NOT NULL THEN 'headers'
        WHEN traceparent IS NOT NULL AND (
            traceparent NOT LIKE '__-________________________________-________________-__'
            OR traceparent ~ '[^0-9a-f-]'
            OR octet_length(replace(traceparent, '-', '')) <> 52
        ) THEN 'traceparent'
    END;
BEGIN
    IF mistake IS NULL THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'outbox event: % must be %', mistake, CASE mistake
        WHEN 'aggregatetype' THEN '1 to 236 characters of A-Z a-z 0-9 . _ - (it becomes part of a topic''s name)'
        WHEN 'aggregateid' THEN '1 to 512 bytes'
        WHEN 'type' THEN '1 to 255 bytes'
        WHEN 'schema_version' THEN '1 or more'
        WHEN 'version' THEN '0 or more, or NULL'
        WHEN 'partition_key' THEN '1 to 512 bytes, or NULL'
        WHEN 'payload' THEN 'at most 900000 bytes'
        WHEN 'headers' THEN outbox.headers_mistake(headers)
        WHEN 'traceparent' THEN 'a W3C trace context such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, '
            'from the argument or the setting outbox.traceparent'
    END USING ERRCODE = 'invalid_parameter_value', SCHEMA = 'outbox', TABLE = 'events', COLUMN = mistake;
END
$function$;

COMMENT ON FUNCTION outbox.check_event(text, text, text, integer, bigint, text, jsonb, text, json) IS
    'True for an event that can be published; otherwise an error with SQLSTATE 22023 that names the column. The CHECK of outbox.events.';

-- What the headers of an event have to be, when they are not; NULL when nothing is wrong.
CREATE FUNCTION outbox.headers_mistake(headers jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN CASE
        WHEN jsonb_typeof(headers) <> 'object'
            THEN 'a JSON object'
        WHEN octet_length(headers::text) > 16384
            THEN 'at most 16384 bytes as text'
        WHEN headers ?| '{"",id,type,position,version,schema_version,traceparent,created_at}'::text[]
            THEN 'without an empty name and the names that the relay writes itself (id, type, position, version, schema_version, traceparent, created_at)'
        WHEN headers @? 'strict $.* ? (@.type() == "object" || @.type() == "array")'
            THEN 'an object of strings, numbers, booleans and nulls, without objects or arrays in it'
    END;
END
$function$;

COMMENT ON FUNCTION outbox.headers_mistake(jsonb) IS
    'What the headers of an event have to be, when they are not; NULL when they are legal.';

REVOKE EXECUTE ON FUNCTION
    outbox.check_event(text, text, text, integer, bigint, text, jsonb, text, json),
    outbox.headers_mistake(jsonb)
    FROM PUBLIC;

CREATE TABLE outbox.events (
    seq            bigint      NOT NULL DEFAULT nextval('outbox.events_seq'),
    id             uuid        NOT NULL DEFAULT outbox.uuid_v7(),
    aggregatetype  text        NOT NULL,
    aggregateid    text        NOT NULL,
    type           text        NOT NULL,
    schema_version integer     NOT NULL DEFAULT 1,
    version        bigint,
    partition_key  text,
    headers        jsonb,
    traceparent    text,
    payload        json,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    writer         xid8        NOT NULL DEFAULT pg_current_xact_id(),
    -- Days since 1970-01-01 UTC, modulo 8: date_part('epoch') does not depend on the session's time zone.
    bucket         smallint    NOT NULL
        DEFAULT (floor(date_part('epoch', clock_timestamp()) / 86400)::bigint % 8)::smallint,

    PRIMARY KEY (bucket, seq),

    CONSTRAINT events_check CHECK (outbox.check_event(
        aggregatetype, aggregateid, type, schema_version, version, partition_key, headers, traceparent, payload))
) PARTITION BY LIST (bucket);

-- A past bucket is cleaned up by TRUNCATE: no DDL at run time, and no partition that could be missing when
-- a service inserts.
CREATE TABLE outbox.events_0 PARTITION OF outbox.events FOR VALUES IN (0);
CREATE TABLE outbox.events_1 PARTITION OF outbox.events FOR VALUES IN (1);
CREATE TABLE outbox.events_2 PARTITION OF outbox.events FOR VALUES IN (2);
CREATE TABLE outbox.events_3 PARTITION OF outbox.events FOR VALUES IN (3);
CREATE TABLE outbox.events_4 PARTITION OF outbox.events FOR VALUES IN (4);
CREATE TABLE outbox.events_5 PARTITION OF outbox.events FOR VALUES IN (5);
CREATE TABLE outbox.events_6 PARTITION OF outbox.events FOR VALUES IN (6);
CREATE TABLE outbox.events_7 PARTITION OF outbox.events FOR VALUES IN (7);

ALTER SEQUENCE outbox.events_seq OWNED BY outbox.events.seq;

COMMENT ON SEQUENCE outbox.events_seq IS
    'Numbers the rows of outbox.events; the order in which a relay publishes from the table.';
COMMENT ON TABLE outbox.events IS
    'One row per event, inserted in the transaction whose effect it tells of. Never updated, never deleted; past buckets are truncated once published.';
COMMENT ON COLUMN outbox.events.seq IS
    'Order of the INSERTs. Not the order of commits: a transaction may commit after another with higher numbers.';
COMMENT ON COLUMN outbox.events.id IS
    'The event''s id, for ever: repetitions, retries and replays carry the same. Consumers deduplicate by it. Not enforced to be unique, which would cost every insert an index.';
COMMENT ON COLUMN outbox.events.aggregatetype IS
    'Kind of the thing that changed, such as order; chooses the topic. 1 to 236 characters of A-Z a-z 0-9 . _ -';
COMMENT ON COLUMN outbox.events.aggregateid IS
    'Which of them changed; the record''s key unless partition_key is set, so what order is kept by. 1 to 512 bytes.';
COMMENT ON COLUMN outbox.events.type IS
    'What happened, such as OrderPlaced; what consumers dispatch on. 1 to 255 bytes.';
COMMENT ON COLUMN outbox.events.schema_version IS
    'Version of the payload''s shape, from 1. Shows when the last writer of an old shape is gone.';
COMMENT ON COLUMN outbox.events.version IS
    'The aggregate''s own version, counted without gaps: lets consumers see gaps and refuse stale writes. Optional.';
COMMENT ON COLUMN outbox.events.partition_key IS
    'The record''s key in place of aggregateid, for events of several aggregates that need one order. 1 to 512 bytes. Optional.';
COMMENT ON COLUMN outbox.events.headers IS
    'Further headers of the record: a JSON object of scalars, at most 16 KiB. The names of the relay''s own headers are refused. Optional.';
COMMENT ON COLUMN outbox.events.traceparent IS
    'W3C trace context of the producing request. Optional.';
COMMENT ON COLUMN outbox.events.payload IS
    'The record''s value, byte for byte (json, not jsonb, which would rewrite it). At most 900,000 bytes. SQL NULL is a record without a value: a tombstone.';
COMMENT ON COLUMN outbox.events.created_at IS
    'When the row was inserted: clock_timestamp(), since now() would be the start of the transaction.';
COMMENT ON COLUMN outbox.events.writer IS
    'The top-level transaction that wrote the row, also inside a savepoint (where xmin is not). Left to its default: what a lost slot is refilled by and what clean-up waits for.';
COMMENT ON COLUMN outbox.events.bucket IS
    'UTC day number since 1970-01-01, modulo 8; the partition. Left to its default.';
