-- The store of settlements: one row per scope and dedup key says what became of the event.
--
-- Every event pays for it, so it was measured; figures and command stand in the README. What shapes it:
--
--   * The key is a uuid: 16 bytes that discriminate at once, so it leads the index; version-7 ids fill the index from
--     the right. A key that is no uuid (idem:{order}:{type}, a foreign message id) becomes one by its SHA-256
--     (inbox.key_id), so that there is one store and one code for both.
--   * The partition follows from the event alone: the time in a version-7 id, else its created-at, which every copy
--     carries. Never from the clock: a copy that comes tomorrow has to meet today's row.
--   * What has no such time (business keys, foreign ids without created-at) has the time -infinity. That is one
--     partition which never goes; its old rows are deleted in batches.
--   * A transactional claim is inserted as 'done': until the commit nobody sees it, and after the commit it is true.
--     So an event that goes well costs one insert and no update.
--   * One further index, a BRIN on the time of the settlement: next to nothing an insert, and clean-up sees at once
--     whether an old partition was written to lately.
--   * What only few rows have is NULL elsewhere, which costs nothing.

-- What the store as a whole remembers.
CREATE TABLE inbox.store (
    one    boolean     PRIMARY KEY DEFAULT true CHECK (one),
    oldest timestamptz NOT NULL CHECK (oldest >= 'epoch'),
    newest timestamptz NOT NULL CHECK (newest > oldest)
);

COMMENT ON TABLE inbox.store IS
    'The range of event times that the partitions of inbox.settlement cover. One row.';
COMMENT ON COLUMN inbox.store.one IS
    'Always true: there is one row.';
COMMENT ON COLUMN inbox.store.oldest IS
    'Lower bound of the oldest partition. An event before it may have been settled and forgotten: it is never run.';
COMMENT ON COLUMN inbox.store.newest IS
    'Upper bound of the newest partition. Later times go to the default partition until upkeep makes theirs.';

CREATE FUNCTION inbox.settlement_stands(
    state text, replay integer, attempts integer, token uuid, lease_until timestamptz, first_seen timestamptz, error text,
    result bytea
) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN CASE
        WHEN state IN ('done', 'replayed') THEN
            num_nulls(token, lease_until, error) = 3 AND (state = 'done' OR coalesce(replay, 0) > 0)
        WHEN state = 'claimed' THEN
            num_nulls(token, lease_until, attempts, first_seen) = 0 AND num_nulls(result, error) = 2
        WHEN state IN ('rejected', 'dropped', 'parked', 'dead') THEN
            num_nulls(token, lease_until, result) = 3 AND coalesce(error, '') <> ''
        ELSE false
    END;
END
$function$;

COMMENT ON FUNCTION inbox.settlement_stands(text, integer, integer, uuid, timestamptz, timestamptz, text, bytea) IS
    'Whether a settlement has what its state needs, and nothing that it cannot have. The CHECK of inbox.settlement.';

CREATE TABLE inbox.settlement (
    event_time    timestamptz NOT NULL,
    settled_at    timestamptz NOT NULL,
    writer        xid8        NOT NULL,
    id            uuid        NOT NULL,
    scope         text        COLLATE "C" NOT NULL,
    state         text        COLLATE "C" NOT NULL,
    partition     integer,
    record_offset bigint,
    topic         text,
    position      text,
    business_key  text,
    replay        integer,
    attempts      integer,
    claimed_from  text        COLLATE "C",
    token         uuid,
    lease_until   timestamptz,
    first_seen    timestamptz,
    error         text,
    result        bytea,

    PRIMARY KEY (id, scope, event_time),

    -- Every statement plans the tree of a CHECK anew, so it is short, and what a row that went well needs comes first:
    -- 17 microseconds a statement were spent on one that said it all. The rest is in a function, which is not inlined.
    CONSTRAINT settlement_check CHECK (
        state = 'done' AND token IS NULL AND error IS NULL
        OR inbox.settlement_stands(state, replay, attempts, token, lease_until, first_seen, error, result))
) PARTITION BY RANGE (event_time);

CREATE INDEX settlement_settled_at ON inbox.settlement USING brin (settled_at);

-- Keys without a time. Nothing between -infinity and 1970 has a place: the claim refuses it as too old.
CREATE TABLE inbox.settlement_untimed PARTITION OF inbox.settlement
    FOR VALUES FROM (MINVALUE) TO ('1970-01-01 00:00:00+00');
-- For the batched deletes; only here, where there is no partition to drop.
CREATE INDEX settlement_untimed_age ON inbox.settlement_untimed (settled_at);
-- Times beyond the newest partition: a producer's clock that is ahead, or an upkeep that does not run.
CREATE TABLE inbox.settlement_later PARTITION OF inbox.settlement DEFAULT;

-- The partitions with bounds. A table, since the catalogue has them as text only.
CREATE TABLE inbox.settlement_partition (
    lower timestamptz PRIMARY KEY,
    upper timestamptz NOT NULL UNIQUE CHECK (upper > lower),
    name  text        NOT NULL UNIQUE
);

COMMENT ON TABLE inbox.settlement_partition IS
    'The partitions of inbox.settlement that upkeep made and will drop.';
COMMENT ON COLUMN inbox.settlement_partition.lower IS
    'First event time that belongs to it.';
COMMENT ON COLUMN inbox.settlement_partition.upper IS
    'First event time that no longer belongs to it.';
COMMENT ON COLUMN inbox.settlement_partition.name IS
    'Its name in the schema inbox.';

-- Everything before the day of the installation is one partition: a consumer may begin with a backlog of any age.
DO $do$
DECLARE
    today CONSTANT timestamptz := date_trunc('day', now(), 'UTC');
BEGIN
    EXECUTE format('CREATE TABLE inbox.settlement_begin PARTITION OF inbox.settlement FOR VALUES FROM (%L) TO (%L)',
        to_timestamp(0), today);
    INSERT INTO inbox.settlement_partition VALUES (to_timestamp(0), today, 'settlement_begin');
    INSERT INTO inbox.store (oldest, newest) VALUES (to_timestamp(0), today);
END
$do$;

COMMENT ON TABLE inbox.settlement IS
    'What became of an event in a scope. Changed by the functions of the schema only, along inbox.allowed().';
COMMENT ON COLUMN inbox.settlement.event_time IS
    'inbox.event_time(): the time in a version-7 id, else the event''s created-at, else -infinity. Chooses the partition.';
COMMENT ON COLUMN inbox.settlement.settled_at IS
    'When the state was last changed. A partition goes only when the newest of these is older than the floor.';
COMMENT ON COLUMN inbox.settlement.writer IS
    'Top-level transaction of the last change. While it is open, it alone may decide otherwise about what it claimed.';
COMMENT ON COLUMN inbox.settlement.id IS
    'The event''s id, or inbox.key_id() of a business key.';
COMMENT ON COLUMN inbox.settlement.scope IS
    'The consumer''s name; not its Kafka group, so that a replay or a fast lane under another group meets the same rows.';
COMMENT ON COLUMN inbox.settlement.state IS
    'claimed: an external handler has it until lease_until. done, replayed: its effect is there, in a replay or before. rejected: the handler refused it. dropped: given up by a policy. parked: waits in inbox.parked_event. dead: in the dead letters.';
COMMENT ON COLUMN inbox.settlement.partition IS
    'Partition of the record that was claimed; evidence, optional.';
COMMENT ON COLUMN inbox.settlement.record_offset IS
    'Offset of that record.';
COMMENT ON COLUMN inbox.settlement.topic IS
    'Topic of that record.';
COMMENT ON COLUMN inbox.settlement.position IS
    'The event''s position, as in the header of that name; optional.';
COMMENT ON COLUMN inbox.settlement.business_key IS
    'The business key that id was made of; NULL where id is the event''s own.';
COMMENT ON COLUMN inbox.settlement.replay IS
    'Number of the last replay that was let in; NULL before the first. Only a newer one passes.';
COMMENT ON COLUMN inbox.settlement.attempts IS
    'How often an external handler claimed it; NULL where the handler ran in the claim''s own transaction.';
COMMENT ON COLUMN inbox.settlement.claimed_from IS
    'The state that the last claim found and passed: parked, dead, rejected or claimed. NULL where it found no row.';
COMMENT ON COLUMN inbox.settlement.token IS
    'Random, new with each claim of an external handler; whoever settles has to know it. NULL unless claimed.';
COMMENT ON COLUMN inbox.settlement.lease_until IS
    'When another may take a claimed event; infinity for at most once, where nobody may. NULL unless claimed.';
COMMENT ON COLUMN inbox.settlement.first_seen IS
    'When it was first claimed; NULL where that settled it (then settled_at is that time).';
COMMENT ON COLUMN inbox.settlement.error IS
    'Why it is rejected, dropped, parked or dead: a sentence, at most 2,000 characters.';
COMMENT ON COLUMN inbox.settlement.result IS
    'What an external handler returned, for whoever brings a copy; at most 64 KiB.';

-- 0.15 microseconds: the first six bytes through hex and bits, without a branch per byte.
CREATE FUNCTION inbox.event_time(id uuid, created timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN get_byte(uuid_send(id), 6) >> 4 = 7 THEN
            to_timestamp(('x0000' || encode(substring(uuid_send(id) FROM 1 FOR 6), 'hex'))::bit(64)::bigint::float8 / 1000)
        ELSE coalesce(created, '-infinity')
    END;

COMMENT ON FUNCTION inbox.event_time(uuid, timestamptz) IS
    'The time that chooses an event''s partition: the one inside a version-7 id, whatever else is said; otherwise created; -infinity where there is none.';

-- Version 8 of RFC 9562 (free use), so that it is never taken for an id with a time. 122 bits of SHA-256: that two
-- keys meet by chance is less likely than that the machine errs.
CREATE FUNCTION inbox.key_id(business_key text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN encode(
        set_byte(
            set_byte(
                substring(sha256(convert_to(business_key, 'UTF8')) FROM 1 FOR 16),
                6, get_byte(sha256(convert_to(business_key, 'UTF8')), 6) & 15 | 128),
            8, get_byte(sha256(convert_to(business_key, 'UTF8')), 8) & 63 | 128),
        'hex')::uuid;

COMMENT ON FUNCTION inbox.key_id(text) IS
    'The id under which a business key, or any id that is no uuid, is settled: a version-8 UUID of its SHA-256.';

-- The one table of transitions. A function of constants and not a table, since a table could be edited and would be
-- joined; and not a trigger, which would cost every insert, where nothing can be refused. The statements below name
-- it in their WHERE, so a row that may not change is not found.
--
--   lease        the lease has ended
--   replay       the claim carries a newer number
--   claimant     the claim holds the lock of the parked key
--   transaction  the claim is of this very transaction
--   token        the caller knows the token of the claim
CREATE FUNCTION inbox.allowed(by text, from_state text, to_state text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE by
        WHEN 'lease' THEN from_state = 'claimed' AND to_state IN ('claimed', 'done', 'replayed')
        WHEN 'replay' THEN from_state IN ('dead', 'rejected') AND to_state IN ('claimed', 'replayed', 'parked')
        WHEN 'claimant' THEN from_state = 'parked' AND to_state IN ('claimed', 'done', 'replayed')
        WHEN 'transaction' THEN from_state IN ('done', 'replayed') AND to_state IN ('rejected', 'dropped', 'parked', 'dead')
        WHEN 'token' THEN from_state = 'claimed'
            AND to_state IN ('claimed', 'done', 'replayed', 'rejected', 'dropped', 'parked', 'dead')
        ELSE false
    END;

COMMENT ON FUNCTION inbox.allowed(text, text, text) IS
    'Whether a settlement may go from one state to another: by the end of a lease, by a newer replay, by the claimant of its parked key, by the transaction that claimed it, or by whoever knows its token.';
