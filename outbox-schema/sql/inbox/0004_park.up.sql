-- Parked keys: what waits for its next attempt, in order.
--
-- A marker stands for a key whose first open event failed; behind it, in order, stand that event and every later one
-- of the key, each written in the transaction that found the marker. Who writes what:
--
--   * A worker that finds no marker runs the event. One whose event fails for the ladder parks it: inbox.park().
--   * A worker that finds a marker (inbox.marked(), after its claim and in a statement of its own) queues the event
--     behind it: inbox.follow(). If the marker is gone by then it looks again.
--   * A claimant takes a key that is due (inbox.take_parked_key(), which locks it for the transaction), runs the
--     events in order (inbox.resume(), then inbox.unpark()), and removes the marker in a transaction of its own
--     (inbox.lock_parked_key(), resume and unpark what is left, inbox.remove_parked_key()).
--
-- Why nobody is left behind a marker that is gone: a follower has a foreign key to it, and follow() holds its row
-- until the commit, since it counts there. Whoever removes it locks the row first and looks afterwards, in a newer
-- statement. So either the follower is committed and seen, or it waits and then finds no marker. The foreign key
-- holds this also against whoever writes the tables without the functions: their insert meets 23503.
--
-- The order of the events is the order in which they are written, one sequence: workers write a key's events in the
-- key's order, and a second owner of a partition waits for the first in the claim.

CREATE SEQUENCE inbox.parked_seq AS bigint CACHE 1;

CREATE TABLE inbox.parked_key (
    scope           text        COLLATE "C" NOT NULL CHECK (scope <> ''),
    topic           text        COLLATE "C" NOT NULL CHECK (topic <> ''),
    key             bytea       NOT NULL CHECK (octet_length(key) <= 512),
    state           text        NOT NULL CHECK (state IN ('waiting', 'held')),
    held_by         text        CHECK (held_by IN ('hold', 'halt', 'operator')),
    attempts        integer     NOT NULL CHECK (attempts >= 0),
    rung            integer     NOT NULL CHECK (rung >= 0),
    due             timestamptz NOT NULL,
    waiting         integer     NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    bytes           bigint      NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    last_error      text        NOT NULL CHECK (last_error <> ''),

    PRIMARY KEY (scope, topic, key),
    CONSTRAINT parked_key_held CHECK ((state = 'held') = (held_by IS NOT NULL))
);

CREATE INDEX parked_key_due ON inbox.parked_key (scope, due) WHERE state = 'waiting';

COMMENT ON SEQUENCE inbox.parked_seq IS
    'Numbers the rows of inbox.parked_event: the order in which a key''s events run.';
COMMENT ON TABLE inbox.parked_key IS
    'A row per key whose first open event failed; later events of the key queue behind it in inbox.parked_event.';
COMMENT ON COLUMN inbox.parked_key.scope IS
    'The consumer''s name.';
COMMENT ON COLUMN inbox.parked_key.topic IS
    'The topic whose key it is.';
COMMENT ON COLUMN inbox.parked_key.key IS
    'inbox.order_key() of the record''s key: what order is kept by.';
COMMENT ON COLUMN inbox.parked_key.state IS
    'waiting: its first event runs at due. held: nothing of it runs until somebody releases it.';
COMMENT ON COLUMN inbox.parked_key.held_by IS
    'Why it is held: the policy of the topic for exhausted events (hold; halt, where its partition stands still too), or an operator. NULL unless held.';
COMMENT ON COLUMN inbox.parked_key.attempts IS
    'How often the first event was tried, in place and here.';
COMMENT ON COLUMN inbox.parked_key.rung IS
    'Which delay of the ladder it waits out now, from 0.';
COMMENT ON COLUMN inbox.parked_key.due IS
    'When its first event may run again; with an external handler not before the lease of the attempt that runs.';
COMMENT ON COLUMN inbox.parked_key.waiting IS
    'How many events stand behind it, the failing one included: kept here so that nobody has to count.';
COMMENT ON COLUMN inbox.parked_key.bytes IS
    'Size of those events.';
COMMENT ON COLUMN inbox.parked_key.parked_at IS
    'When the key was parked.';
COMMENT ON COLUMN inbox.parked_key.first_failed_at IS
    'When its present first event failed first, since it was released or replayed; before that, when it became the first.';
COMMENT ON COLUMN inbox.parked_key.last_failed_at IS
    'When it failed last.';
COMMENT ON COLUMN inbox.parked_key.last_error IS
    'What the last attempt said, at most 2,000 characters.';

CREATE TABLE inbox.parked_event (
    scope         text        COLLATE "C" NOT NULL,
    topic         text        COLLATE "C" NOT NULL,
    key           bytea       NOT NULL,
    seq           bigint      NOT NULL DEFAULT nextval('inbox.parked_seq'),
    id            uuid        NOT NULL,
    event_time    timestamptz NOT NULL,
    replay        integer     CHECK (replay > 0),
    partition     integer     NOT NULL CHECK (partition >= 0),
    record_offset bigint      NOT NULL CHECK (record_offset >= 0),
    record_time   timestamptz,
    record_key    bytea,
    record_value  bytea,
    headers       json        NOT NULL DEFAULT '[]' CHECK (json_typeof(headers) = 'array'),
    bytes         integer     NOT NULL,
    parked_at     timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (scope, topic, key, seq),
    FOREIGN KEY (scope, topic, key) REFERENCES inbox.parked_key
);

-- An event is parked once; and led by the time, so that upkeep sees whether anything waits in a partition.
CREATE UNIQUE INDEX parked_event_once ON inbox.parked_event (event_time, id, scope);

ALTER SEQUENCE inbox.parked_seq OWNED BY inbox.parked_event.seq;

COMMENT ON TABLE inbox.parked_event IS
    'The failing event of a parked key and every later one of that key, as they came, in order.';
COMMENT ON COLUMN inbox.parked_event.scope IS
    'The consumer''s name; with topic and key the marker it stands behind.';
COMMENT ON COLUMN inbox.parked_event.topic IS
    'The topic it came from.';
COMMENT ON COLUMN inbox.parked_event.key IS
    'inbox.order_key() of its key.';
COMMENT ON COLUMN inbox.parked_event.seq IS
    'Its place in the order of the key.';
COMMENT ON COLUMN inbox.parked_event.id IS
    'The id under which it is settled.';
COMMENT ON COLUMN inbox.parked_event.event_time IS
    'Its inbox.event_time(), which finds its settlement.';
COMMENT ON COLUMN inbox.parked_event.replay IS
    'Number of the replay that put it here; NULL where it failed for the first time.';
COMMENT ON COLUMN inbox.parked_event.partition IS
    'Partition of the record.';
COMMENT ON COLUMN inbox.parked_event.record_offset IS
    'Offset of the record.';
COMMENT ON COLUMN inbox.parked_event.record_time IS
    'Timestamp of the record.';
COMMENT ON COLUMN inbox.parked_event.record_key IS
    'Key of the record, byte for byte.';
COMMENT ON COLUMN inbox.parked_event.record_value IS
    'Value of the record, byte for byte; NULL is a tombstone.';
COMMENT ON COLUMN inbox.parked_event.headers IS
    'Headers of the record in their order: [["name", "base64 of the bytes"], ["other", null]].';
COMMENT ON COLUMN inbox.parked_event.bytes IS
    'What it counts for in the bounds: key, value and headers.';
COMMENT ON COLUMN inbox.parked_event.parked_at IS
    'When it was written.';

-- An index holds at most 2,704 bytes and Kafka's keys have no such limit. Two long keys with one SHA-256 would only
-- wait for each other.
CREATE FUNCTION inbox.order_key(key bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(key) <= 512 THEN key ELSE 'sha256:'::bytea || sha256(key) END;

COMMENT ON FUNCTION inbox.order_key(bytea) IS
    'The key itself, or its SHA-256 where it is longer than an index takes.';

-- The look for markers: the places (from 1) of the pairs of topic and key that are parked. Usually none.
--
-- A call of its own and after the claim, never within its statement: a stale owner that commits while the claim waits
-- for it leaves a marker which the claim's snapshot does not have. VOLATILE, so that it takes a snapshot of its own
-- wherever it is called from.
CREATE FUNCTION inbox.marked(scope text, topics text[], keys bytea[]) RETURNS integer[]
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    places integer[];
BEGIN
    -- Most consumers have nothing parked most of the time.
    IF NOT EXISTS (SELECT FROM inbox.parked_key AS p WHERE p.scope = marked.scope) THEN
        RETURN '{}';
    END IF;
    SELECT array_agg(k.place ORDER BY k.place) INTO places
      FROM unnest(topics, keys) WITH ORDINALITY AS k (topic, key, place)
      JOIN inbox.parked_key AS p ON p.scope = marked.scope AND p.topic = k.topic AND p.key = inbox.order_key(k.key);
    RETURN coalesce(places, '{}');
END
$function$;

COMMENT ON FUNCTION inbox.marked(text, text[], bytea[]) IS
    'Which of these keys are parked: their places in the arguments, from 1. Call it after the claim, as a statement of its own.';

-- Claim and look in one call: inbox.claim_group(), then inbox.marked() for the keys, whose statements begin when the claim
-- has its answer and so see what was committed while it waited. The claim waits for others for so many milliseconds;
-- afterwards lock_timeout is what it was.
CREATE FUNCTION inbox.claim_keys(
    scope         text,
    ids           uuid[],
    created       timestamptz[],
    topics        text[],
    partitions    integer[],
    offsets       bigint[],
    business_keys text[],
    key_topics    text[],
    keys          bytea[],
    waits         integer,
    OUT verdicts  text[],
    OUT parked    integer[]
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    usual CONSTANT text := current_setting('lock_timeout');
BEGIN
    PERFORM set_config('lock_timeout', waits::text, true);
    verdicts := inbox.claim_group(scope, ids, created, NULL, topics, partitions, offsets, NULL, business_keys);
    PERFORM set_config('lock_timeout', usual, true);
    parked := inbox.marked(scope, key_topics, keys);
END
$function$;

COMMENT ON FUNCTION inbox.claim_keys(text, uuid[], timestamptz[], text[], integer[], bigint[], text[], text[], bytea[], integer) IS
    'inbox.claim_group() and then inbox.marked() in one call; the claim waits for others for so many milliseconds.';

-- Writes events behind a marker, and their settlements as parked. The caller is inbox.park(), follow() or replay().
-- unmarked: the marker is gone; full: a bound is reached, nothing is written.
CREATE FUNCTION inbox.append_parked(
    scope text, topic text, key bytea, ids uuid[], created timestamptz[], replays integer[], partitions integer[],
    offsets bigint[], times timestamptz[], record_keys bytea[], record_values bytea[], headers json[],
    max_of_key integer, max_in_all integer, max_bytes bigint
) RETURNS text
    LANGUAGE plpgsql VOLATILE
AS $function$
#variable_conflict use_column
DECLARE
    the_key CONSTANT bytea := inbox.order_key(append_parked.key);
    many    CONSTANT integer := cardinality(append_parked.ids);
    size    CONSTANT bigint := (
        SELECT sum(coalesce(octet_length(r.k), 0) + coalesce(octet_length(r.v), 0) + coalesce(octet_length(r.h::text), 0))
          FROM unnest(record_keys, record_values, append_parked.headers) AS r (k, v, h));
    behind  integer;
BEGIN
    IF (SELECT sum(p.waiting) + many > max_in_all OR sum(p.bytes) + size > max_bytes
          FROM inbox.parked_key AS p WHERE p.scope = append_parked.scope) THEN
        RETURN 'full';
    END IF;
    -- The row stays locked until the commit. Whoever removes the marker meanwhile is either before us, and nothing is
    -- found, or waits for us and then sees what we wrote.
    UPDATE inbox.parked_key AS p
       SET waiting = waiting + many, bytes = bytes + size
     WHERE p.scope = append_parked.scope AND p.topic = append_parked.topic AND p.key = the_key
    RETURNING waiting INTO behind;
    IF NOT FOUND THEN
        RETURN 'unmarked';
    ELSIF behind > max_of_key THEN
        UPDATE inbox.parked_key AS p
           SET waiting = waiting - many, bytes = bytes - size
         WHERE p.scope = append_parked.scope AND p.topic = append_parked.topic AND p.key = the_key;
        RETURN 'full';
    END IF;

    INSERT INTO inbox.parked_event (scope, topic, key, id, event_time, replay, partition, record_offset, record_time,
                                    record_key, record_value, headers, bytes)
    SELECT append_parked.scope, append_parked.topic, the_key, e.id, inbox.event_time(e.id, e.created), nullif(e.replay, 0),
           e.partition, e.record_offset, e.record_time, e.record_key, e.record_value, coalesce(e.headers, '[]'),
           coalesce(octet_length(e.record_key), 0) + coalesce(octet_length(e.record_value), 0)
               + coalesce(octet_length(e.headers::text), 0)
      FROM unnest(append_parked.ids, append_parked.created, replays, partitions, offsets, times, record_keys,
                  record_values, append_parked.headers) WITH ORDINALITY
        AS e (id, created, replay, partition, record_offset, record_time, record_key, record_value, headers, place)
     ORDER BY e.place;
    RETURN 'parked';
END
$function$;

COMMENT ON FUNCTION inbox.append_parked(text, text, bytea, uuid[], timestamptz[], integer[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], integer, integer, bigint) IS
    'Part of inbox.park(), follow() and replay(): writes events behind a marker.';

-- The settlements of events that go into the park: the claims of this transaction, or the one whose token is known.
CREATE FUNCTION inbox.settle_parked(
    scope text, ids uuid[], created timestamptz[], error text, token uuid
) RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $function$
#variable_conflict use_column
DECLARE
    changed integer;
BEGIN
    UPDATE inbox.settlement AS s
       SET state = 'parked', settled_at = clock_timestamp(), writer = pg_current_xact_id(), token = NULL,
           lease_until = NULL, claimed_from = NULL, error = left(coalesce(nullif(settle_parked.error, ''), 'no reason was given'), 2000)
      FROM unnest(settle_parked.ids, settle_parked.created) AS e (id, created)
     WHERE s.id = e.id AND s.scope = settle_parked.scope AND s.event_time = inbox.event_time(e.id, e.created)
       AND CASE
               WHEN s.token IS NOT NULL THEN s.token = settle_parked.token AND inbox.allowed('token', s.state, 'parked')
               ELSE s.writer = pg_current_xact_id() AND inbox.allowed('transaction', s.state, 'parked')
           END;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed <> cardinality(settle_parked.ids) THEN
        RAISE EXCEPTION 'inbox: of % events of scope % only % are claimed by this transaction or by this token',
                cardinality(settle_parked.ids), settle_parked.scope, changed
            USING ERRCODE = 'IB001';
    END IF;
END
$function$;

COMMENT ON FUNCTION inbox.settle_parked(text, uuid[], timestamptz[], text, uuid) IS
    'Part of inbox.park() and follow(): settles claimed events as parked.';
