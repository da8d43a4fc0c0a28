-- The quarantine: rows that cannot be published, and the rows of the same order that wait behind them.
--
-- A relay on a table of another shape has one too, without the rest of the contract. This file therefore also runs
-- alone, and again when it ran before: the table that is there decides. What belongs to the contract alone, its
-- version, is touched only where the contract is.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'outbox') THEN
        CREATE SCHEMA outbox;
    END IF;
END
$do$;

DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        CREATE ROLE outbox_relay NOLOGIN;
        COMMENT ON ROLE outbox_relay IS 'May read outbox.events; for relays.';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$do$;

-- pg_lsn prints its two halves without leading zeros ('16/B374D848'); the difference of two pg_lsn is numeric and
-- to_hex() takes a signed bigint, so the text is the way that works for every value.
CREATE OR REPLACE FUNCTION outbox.position_text(epoch bigint, commit_lsn pg_lsn, ordinal bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN epoch::text
        || '/' || lpad(split_part(commit_lsn::text, '/', 1), 8, '0') || lpad(split_part(commit_lsn::text, '/', 2), 8, '0')
        || '/' || ordinal::text;

COMMENT ON FUNCTION outbox.position_text(bigint, pg_lsn, bigint) IS
    'The text of a position as in the record''s header: <epoch>/<commit LSN as 16 upper-case hex digits>/<ordinal>.';

CREATE TABLE IF NOT EXISTS outbox.quarantine (
    relay         text        NOT NULL CHECK (octet_length(relay) BETWEEN 1 AND 63),
    lane          integer     NOT NULL CHECK (lane >= 0),
    epoch         bigint      NOT NULL CHECK (epoch >= 0),
    commit_lsn    pg_lsn      NOT NULL,
    ordinal       bigint      NOT NULL CHECK (ordinal >= 0),
    committed_at  timestamptz NOT NULL,
    event_id      text,
    aggregatetype text,
    event_type    text,
    topic         text,
    key           bytea,
    held_by       text,
    state         text        NOT NULL CHECK (state IN (
        'held', 'queued', 'passed', 'releasing', 'discarding', 'published', 'discarded')),
    cause         text        NOT NULL CHECK (cause IN (
        'null_column', 'undecodable', 'illegal_topic', 'header', 'too_large', 'row_too_large', 'refused', 'behind')),
    reason        text        NOT NULL CHECK (reason <> ''),
    columns       text[],
    types         oid[],
    row_values    bytea[],
    formats       text        CHECK (formats ~ '^[tbn]*$'),
    bytes         bigint      NOT NULL CHECK (bytes >= 0),
    entered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_at    timestamptz,
    decided_by    text,
    note          text,
    settled_at    timestamptz,
    position      text        NOT NULL GENERATED ALWAYS AS (outbox.position_text(epoch, commit_lsn, ordinal)) STORED,

    PRIMARY KEY (relay, lane, commit_lsn, ordinal, epoch),

    -- What is held has an order that waits for it; what was passed over has none; what is queued stands in one,
    -- and for no other reason.
    CONSTRAINT quarantine_order CHECK (CASE state
        WHEN 'held' THEN held_by IS NOT NULL AND cause <> 'behind'
        WHEN 'queued' THEN held_by IS NOT NULL AND cause = 'behind'
        WHEN 'passed' THEN held_by IS NULL AND cause <> 'behind'
        ELSE cause <> 'behind' OR (state = 'published' AND held_by IS NOT NULL)
    END),
    -- Everything that left the quarantine was decided on, but for what was only queued: that follows.
    CONSTRAINT quarantine_decision CHECK (
        num_nulls(decided_at, decided_by) IN (0, 2)
        AND (decided_at IS NULL) = (state IN ('held', 'queued', 'passed') OR cause = 'behind')),
    CONSTRAINT quarantine_settled CHECK ((settled_at IS NOT NULL) = (state IN ('published', 'discarded'))),
    -- The row as a whole, or nothing of it.
    CONSTRAINT quarantine_row CHECK (
        num_nulls(columns, types, row_values, formats) = 4
        OR (num_nulls(columns, types, row_values, formats) = 0
            AND cardinality(types) = cardinality(columns)
            AND cardinality(row_values) = cardinality(columns)
            AND length(formats) = cardinality(columns)))
);

-- What is open, in the order of the stream. Entries that are settled stay for a while and are no part of it.
CREATE INDEX IF NOT EXISTS quarantine_open ON outbox.quarantine (relay, lane, epoch, commit_lsn, ordinal)
    WHERE settled_at IS NULL;
-- The queues: what is held, released or queued, without what was passed over, which may be much. The name of a queue
-- is no part of it: a key of a table of another shape may be longer than the 2,704 bytes that fit into an index, and
-- then its entry could not be written. Relays bound what is queued.
CREATE INDEX IF NOT EXISTS quarantine_queues ON outbox.quarantine (relay, lane, epoch, commit_lsn, ordinal)
    WHERE settled_at IS NULL AND held_by IS NOT NULL;

COMMENT ON TABLE outbox.quarantine IS
    'Events that a relay could not publish, and those of the same order that wait behind them. Decided on by outbox.decide(), or outbox-relay quarantine.';
COMMENT ON COLUMN outbox.quarantine.relay IS
    'Name of the relay whose entry it is.';
COMMENT ON COLUMN outbox.quarantine.lane IS
    'Its lane, from 0.';
COMMENT ON COLUMN outbox.quarantine.epoch IS
    'Epoch of the event''s position: how often the relay''s stream had to be started anew.';
COMMENT ON COLUMN outbox.quarantine.commit_lsn IS
    'LSN of the commit of the row''s transaction; 0/0 where the relay published from the table.';
COMMENT ON COLUMN outbox.quarantine.ordinal IS
    'The row''s place among the published rows of its transaction; its seq where the relay published from the table.';
COMMENT ON COLUMN outbox.quarantine.committed_at IS
    'When the row''s transaction committed, or the time of the fill where the relay published from the table.';
COMMENT ON COLUMN outbox.quarantine.event_id IS
    'The event''s id, if it could be read.';
COMMENT ON COLUMN outbox.quarantine.aggregatetype IS
    'The kind of the thing that changed, if it could be read.';
COMMENT ON COLUMN outbox.quarantine.event_type IS
    'What happened, if it could be read.';
COMMENT ON COLUMN outbox.quarantine.topic IS
    'The topic it would go to; NULL where none could be made.';
COMMENT ON COLUMN outbox.quarantine.key IS
    'The key of its record; NULL where there is none.';
COMMENT ON COLUMN outbox.quarantine.held_by IS
    'The order that it stands in, with the key: the topic, or ? and the routing text where no topic could be made. Later events of the same held_by and key wait behind it. NULL: nothing waits.';
COMMENT ON COLUMN outbox.quarantine.state IS
    'held: waits for a decision, and its order behind it. queued: waits behind a held one. passed: waits for a decision, nothing behind it. releasing, discarding: decided, and the relay has not come to the decision in its stream. published, discarded: settled.';
COMMENT ON COLUMN outbox.quarantine.cause IS
    'Why it is here, as a code: null_column, undecodable, illegal_topic, header, too_large (the record), row_too_large (the row), refused (by the broker, sent alone), behind (another of its order is held).';
COMMENT ON COLUMN outbox.quarantine.reason IS
    'Why it is here, as a sentence. Never holds values of the row.';
COMMENT ON COLUMN outbox.quarantine.columns IS
    'The row as it came in the stream: names of its columns. NULL with the next three where the row was too large to be held; it then stands in the outbox table only.';
COMMENT ON COLUMN outbox.quarantine.types IS
    'OIDs of the columns'' types.';
COMMENT ON COLUMN outbox.quarantine.row_values IS
    'The columns'' values, byte for byte; a NULL is an SQL NULL.';
COMMENT ON COLUMN outbox.quarantine.formats IS
    'One letter for each column: t is text, b is binary, n is NULL.';
COMMENT ON COLUMN outbox.quarantine.bytes IS
    'Size of the row in the stream.';
COMMENT ON COLUMN outbox.quarantine.entered_at IS
    'When the entry was written.';
COMMENT ON COLUMN outbox.quarantine.decided_at IS
    'When somebody decided to release or discard it. NULL for what only queued: it follows the one it stands behind.';
COMMENT ON COLUMN outbox.quarantine.decided_by IS
    'The role that decided.';
COMMENT ON COLUMN outbox.quarantine.note IS
    'What was noted with the decision.';
COMMENT ON COLUMN outbox.quarantine.settled_at IS
    'When it was published, or was discarded where the relay came to the decision.';
COMMENT ON COLUMN outbox.quarantine.position IS
    'The event''s position as text, as in the header of that name.';

-- Decides on an event that is held or was passed over. The row is marked and a message is written into the log in one
-- transaction, the caller's. The relay acts where it reads the message in its stream: every event of the order that
-- was committed before is known by then and stands behind it, every later one comes after, so none overtakes another.
--
-- SQLSTATEs: 22023 for a wrong argument, OB001 where there is no such entry, OB002 where it is decided on or settled,
-- OB003 where it only waits behind another.
CREATE OR REPLACE FUNCTION outbox.decide(
    relay      text,
    lane       integer,
    epoch      bigint,
    commit_lsn pg_lsn,
    ordinal    bigint,
    decision   text,
    note       text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    place  CONSTANT text := outbox.position_text(epoch, commit_lsn, ordinal);
    entry  outbox.quarantine%ROWTYPE;
    ahead  text;
BEGIN
    IF decision IS NULL OR decision NOT IN ('release', 'discard') THEN
        RAISE EXCEPTION 'outbox quarantine: decision must be release or discard'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT * INTO entry FROM outbox.quarantine AS q
     WHERE q.relay = decide.relay AND q.lane = decide.lane
       AND q.commit_lsn = decide.commit_lsn AND q.ordinal = decide.ordinal AND q.epoch = decide.epoch
       FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox quarantine: there is no entry at % of lane % of relay %', place, lane, relay
            USING ERRCODE = 'OB001';
    END IF;

    IF entry.state = 'queued' THEN
        SELECT q.position INTO ahead FROM outbox.quarantine AS q
         WHERE q.relay = entry.relay AND q.lane = entry.lane AND q.settled_at IS NULL
           AND q.held_by = entry.held_by AND q.key IS NOT DISTINCT FROM entry.key AND q.state <> 'queued'
           AND (q.epoch, q.commit_lsn, q.ordinal) < (entry.epoch, entry.commit_lsn, entry.ordinal)
         ORDER BY q.epoch, q.commit_lsn, q.ordinal
         LIMIT 1;
        RAISE EXCEPTION 'outbox quarantine: % only waits behind %; decide on that one, and this one follows',
                place, coalesce(ahead, 'another, which is being published now')
            USING ERRCODE = 'OB003';
    ELSIF entry.state NOT IN ('held', 'passed') THEN
        RAISE EXCEPTION 'outbox quarantine: % is % already%', place, entry.state,
                coalesce(', decided by ' || entry.decided_by || ' at ' || entry.decided_at, '')
            USING ERRCODE = 'OB002';
    END IF;

    UPDATE outbox.quarantine AS q
       SET state = CASE decision WHEN 'release' THEN 'releasing' ELSE 'discarding' END,
           decided_at = clock_timestamp(),
           decided_by = session_user,
           note = decide.note
     WHERE q.relay = entry.relay AND q.lane = entry.lane
       AND q.commit_lsn = entry.commit_lsn AND q.ordinal = entry.ordinal AND q.epoch = entry.epoch;
    PERFORM pg_catalog.pg_logical_emit_message(true, 'outbox', format(
        '{"relay":%s,"lane":%s,"do":{%s:{"position":%s}}}',
        to_json(entry.relay), entry.lane, to_json(decision), to_json(entry.position)));
END
$function$;

COMMENT ON FUNCTION outbox.decide(text, integer, bigint, pg_lsn, bigint, text, text) IS
    'Releases or discards one held or passed event: marks it and tells the relay through its stream, in the caller''s transaction. Refuses with SQLSTATE 22023, OB001 (not there), OB002 (decided already) or OB003 (waits behind another).';

-- For the owner only: relays may not delete.
CREATE OR REPLACE FUNCTION outbox.prune_quarantine(older_than interval) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    pruned bigint;
BEGIN
    IF older_than IS NULL OR older_than < interval '0' THEN
        RAISE EXCEPTION 'outbox quarantine: older_than must be an interval of 0 or more'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM outbox.quarantine AS q WHERE q.settled_at < clock_timestamp() - older_than;
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$function$;

COMMENT ON FUNCTION outbox.prune_quarantine(interval) IS
    'Deletes entries that were published or discarded longer ago than this and returns how many. For the table''s owner.';

REVOKE EXECUTE ON FUNCTION
    outbox.position_text(bigint, pg_lsn, bigint),
    outbox.decide(text, integer, bigint, pg_lsn, bigint, text, text),
    outbox.prune_quarantine(interval)
    FROM PUBLIC;

-- Relays write entries and mark them; an entry is deleted by the owner only. Producers have nothing to do here.
GRANT USAGE ON SCHEMA outbox TO outbox_relay;
GRANT SELECT, INSERT, UPDATE ON outbox.quarantine TO outbox_relay;
GRANT EXECUTE ON FUNCTION
    outbox.position_text(bigint, pg_lsn, bigint),
    outbox.decide(text, integer, bigint, pg_lsn, bigint, text, text)
    TO outbox_relay;

-- Where this runs again beside a later version, that one stays.
DO $do$
BEGIN
    IF to_regprocedure('outbox.contract_version()') IS NOT NULL THEN
        IF outbox.contract_version() < 2 THEN
            CREATE OR REPLACE FUNCTION outbox.contract_version() RETURNS integer
                LANGUAGE sql STABLE PARALLEL SAFE
                RETURN 2;
        END IF;
    END IF;
END
$do$;
