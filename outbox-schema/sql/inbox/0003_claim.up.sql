-- Claims and settlements.
--
-- All of this is right at READ COMMITTED only, which is checked: a claim waits for another's uncommitted row and then
-- has to read what that one committed, and so needs statements with newer snapshots than its first. The functions are
-- VOLATILE PL/pgSQL, in which each statement takes a new snapshot (a STABLE one, or one statement with WITH, would
-- keep the old one). The look for park markers does not depend on that: it is a call of its own, a statement of the
-- caller's, so that it is newer than the claim also for callers who put both into a larger statement's place.
--
-- SQLSTATEs: 22023 a wrong argument, IB001 not claimed by this transaction, 25000 another isolation level; 55P03 from
-- the caller's lock_timeout where a claim waits for another's.

CREATE FUNCTION inbox.require_read_committed() RETURNS void
    LANGUAGE plpgsql STABLE
AS $function$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'inbox: the transaction is %, and has to be read committed: a claim that waited reads what the other committed',
                current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
END
$function$;

COMMENT ON FUNCTION inbox.require_read_committed() IS
    'An error with SQLSTATE 25000 unless the transaction is READ COMMITTED.';

-- The claim of transactional handlers, for one event or up to some fifty: the first statement of their transaction.
--
-- The answer has one verdict for each id, in their order:
--
--   run        claimed; it is done when this transaction commits
--   done, replayed, rejected, dropped, parked, dead
--              settled before; skip it
--   claimed    an external handler has it; wait until its lease ends
--   repeated   a further copy of an id that this transaction claimed; settled with it
--   too_old    older than the store: it may have been settled and forgotten; never run it
--
-- Rows are inserted in the order of their ids, whatever the order of the arguments: two transactions that claim the
-- same ids meet at the first of them and cannot wait for each other. An uncommitted row of another is waited for,
-- for lock_timeout at most.
CREATE FUNCTION inbox.claim_group(
    scope         text,
    ids           uuid[],
    created       timestamptz[] DEFAULT NULL,
    replays       integer[]     DEFAULT NULL,
    topics        text[]        DEFAULT NULL,
    partitions    integer[]     DEFAULT NULL,
    offsets       bigint[]      DEFAULT NULL,
    positions     text[]        DEFAULT NULL,
    business_keys text[]        DEFAULT NULL
) RETURNS text[]
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    me       CONSTANT xid8 := pg_current_xact_id();
    at       CONSTANT timestamptz := clock_timestamp();
    wanted   CONSTANT integer := cardinality(claim_group.ids);
    claimed  uuid[] := '{}';
    more     uuid[];
    passing  boolean;
    verdicts text[];
BEGIN
    PERFORM inbox.require_read_committed();
    -- One event that nobody has claimed, which most claims of handlers without company are: without the arrays. The bound
    -- is read as below, and whatever else it is shows below.
    IF wanted = 1 AND array_lower(claim_group.ids, 1) = 1 AND array_ndims(claim_group.ids) = 1
       AND coalesce(array_lower(claim_group.created, 1), 1) = 1 AND coalesce(array_lower(claim_group.replays, 1), 1) = 1
    THEN
        INSERT INTO inbox.settlement (event_time, settled_at, writer, id, scope, state, replay,
                                      topic, partition, record_offset, position, business_key)
        SELECT e.event_time, at, me, claim_group.ids[1], claim_group.scope,
               CASE WHEN claim_group.replays[1] > 0 THEN 'replayed' ELSE 'done' END, nullif(claim_group.replays[1], 0),
               claim_group.topics[1], claim_group.partitions[1], claim_group.offsets[1], claim_group.positions[1],
               claim_group.business_keys[1]
          FROM (VALUES (inbox.event_time(claim_group.ids[1], claim_group.created[1]))) AS e (event_time)
         WHERE e.event_time >= (SELECT s.oldest FROM inbox.store AS s) OR e.event_time = '-infinity'
            ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN '{run}';
        END IF;
    END IF;
    FOR attempt IN 1..10 LOOP
        -- The bound is read by the statement that holds the table's lock, which upkeep needs alone to move it: so no
        -- row can land behind it. Without rows above it nothing is inserted, and so nothing is forgotten.
        WITH inserted AS (
            INSERT INTO inbox.settlement (event_time, settled_at, writer, id, scope, state, replay,
                                          topic, partition, record_offset, position, business_key)
            SELECT e.event_time, at, me, e.id, claim_group.scope,
                   CASE WHEN e.replay > 0 THEN 'replayed' ELSE 'done' END, nullif(e.replay, 0),
                   e.topic, e.partition, e.record_offset, e.position, e.business_key
              FROM (SELECT u.*, inbox.event_time(u.id, u.created) AS event_time
                      FROM unnest(claim_group.ids, claim_group.created, replays, topics, partitions, offsets, positions,
                                  business_keys)
                        AS u (id, created, replay, topic, partition, record_offset, position, business_key)) AS e
             WHERE e.event_time >= (SELECT s.oldest FROM inbox.store AS s) OR e.event_time = '-infinity'
             ORDER BY e.id
                ON CONFLICT DO NOTHING
            RETURNING id
        )
        SELECT array_agg(id) INTO more FROM inserted;
        IF cardinality(more) = wanted THEN
            RETURN array_fill('run'::text, ARRAY[wanted]);
        END IF;
        claimed := claimed || more;

        -- What stands, seen by a statement that began after every wait. An id of which there is no row was given back
        -- by whom we waited for: again.
        SELECT array_agg(CASE
                   WHEN e.event_time < b.oldest AND e.event_time > '-infinity' THEN 'too_old'
                   WHEN s.writer = me AND s.state IN ('done', 'replayed') THEN
                       CASE WHEN e.copy = 1 AND e.id = ANY (claimed) THEN 'run' ELSE 'repeated' END
                   ELSE s.state
               END ORDER BY e.place),
               coalesce(bool_or(inbox.passes(s.state, s.lease_until, s.replay, e.replay, at) AND s.writer <> me), false)
          INTO verdicts, passing
          FROM (SELECT u.*, inbox.event_time(u.id, u.created) AS event_time,
                       row_number() OVER (PARTITION BY u.id, inbox.event_time(u.id, u.created) ORDER BY u.place) AS copy
                  FROM unnest(claim_group.ids, claim_group.created, replays)
                       WITH ORDINALITY AS u (id, created, replay, place)) AS e
         CROSS JOIN (SELECT oldest FROM inbox.store) AS b
          LEFT JOIN inbox.settlement AS s ON s.id = e.id AND s.scope = claim_group.scope AND s.event_time = e.event_time;
        IF passing THEN
            claimed := claimed || inbox.pass_group(claim_group.scope, claim_group.ids, claim_group.created, replays, at);
        ELSIF array_position(verdicts, NULL) IS NULL THEN
            RETURN coalesce(verdicts, '{}');
        END IF;
    END LOOP;
    RAISE EXCEPTION 'inbox: settlements of scope % come and go faster than they can be claimed', claim_group.scope
        USING ERRCODE = 'serialization_failure';
END
$function$;

COMMENT ON FUNCTION inbox.claim_group(text, uuid[], timestamptz[], integer[], text[], integer[], bigint[], text[], text[]) IS
    'Claims events for handlers that run in this transaction; one verdict for each: run, or what stands (done, replayed, rejected, dropped, parked, dead, claimed), repeated, too_old.';

-- Whether a claim may take a row that is there.
CREATE FUNCTION inbox.passes(
    state text, lease_until timestamptz, had integer, brings integer, at timestamptz
) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN state = 'claimed' THEN lease_until < at
        ELSE state IN ('dead', 'rejected') AND brings > coalesce(had, 0)
    END;

COMMENT ON FUNCTION inbox.passes(text, timestamptz, integer, integer, timestamptz) IS
    'Whether a claim may take a row that is there: claimed and its lease over, or dead or rejected and the claim a newer replay.';

-- The rows that a group may take over. Locked in the order of their ids by a statement of its own: the order in which
-- an UPDATE finds rows is the planner's.
CREATE FUNCTION inbox.pass_group(
    scope text, ids uuid[], created timestamptz[], replays integer[], at timestamptz
) RETURNS uuid[]
    LANGUAGE plpgsql VOLATILE
AS $function$
#variable_conflict use_column
DECLARE
    passed uuid[];
BEGIN
    PERFORM FROM inbox.settlement AS s
      JOIN unnest(pass_group.ids, pass_group.created) AS e (id, created)
        ON s.id = e.id AND s.scope = pass_group.scope AND s.event_time = inbox.event_time(e.id, e.created)
     WHERE s.state IN ('claimed', 'dead', 'rejected')
     ORDER BY s.id
       FOR UPDATE OF s;
    WITH updated AS (
        UPDATE inbox.settlement AS s
           SET state = CASE WHEN coalesce(nullif(e.replay, 0), s.replay) > 0 THEN 'replayed' ELSE 'done' END,
               replay = coalesce(nullif(e.replay, 0), s.replay),
               claimed_from = s.state, settled_at = at, writer = pg_current_xact_id(),
               first_seen = coalesce(s.first_seen, s.settled_at), token = NULL, lease_until = NULL, error = NULL
          FROM (SELECT u.id, u.created, max(u.replay) AS replay
                  FROM unnest(pass_group.ids, pass_group.created, replays) AS u (id, created, replay)
                 GROUP BY u.id, u.created) AS e
         WHERE s.id = e.id AND s.scope = pass_group.scope AND s.event_time = inbox.event_time(e.id, e.created)
           AND inbox.passes(s.state, s.lease_until, s.replay, e.replay, at)
           AND inbox.allowed(CASE s.state WHEN 'claimed' THEN 'lease' ELSE 'replay' END, s.state, 'replayed')
        RETURNING s.id
    )
    SELECT array_agg(id) INTO passed FROM updated;
    RETURN coalesce(passed, '{}');
END
$function$;

COMMENT ON FUNCTION inbox.pass_group(text, uuid[], timestamptz[], integer[], timestamptz) IS
    'Part of inbox.claim_group(): takes over the rows that inbox.passes() lets it, and returns their ids.';

-- What did not go well in a group, settled in the transaction that claimed it. A rollback to a savepoint that came
-- after the claim leaves the claim standing as done, so each of these has to be said:
--
--   retry                    it runs again later: the row goes, or is again what the claim found (parked, dead, rejected)
--   rejected, dropped, dead  with the reason
--
-- parked is not among them: an event is parked together with what waits, by inbox.park() and inbox.follow().
CREATE FUNCTION inbox.settle_group(
    scope   text,
    ids     uuid[],
    states  text[],
    created timestamptz[] DEFAULT NULL,
    errors  text[]        DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    changed integer;
BEGIN
    IF EXISTS (SELECT FROM unnest(states) AS state WHERE state IS NULL OR state NOT IN ('retry', 'rejected', 'dropped', 'dead')) THEN
        RAISE EXCEPTION 'inbox: states must be retry, rejected, dropped or dead'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- One statement for all: rows of the group that no longer are this transaction's claim fail as a whole.
    WITH given AS (
        SELECT u.id, inbox.event_time(u.id, u.created) AS event_time, u.state, u.error
          FROM unnest(settle_group.ids, states, settle_group.created, errors) AS u (id, state, created, error)
    ), gone AS (
        DELETE FROM inbox.settlement AS s USING given AS g
         WHERE s.id = g.id AND s.scope = settle_group.scope AND s.event_time = g.event_time
           AND s.writer = pg_current_xact_id() AND s.state IN ('done', 'replayed')
           AND g.state = 'retry' AND coalesce(s.claimed_from, 'claimed') = 'claimed'
        RETURNING s.id
    ), settled AS (
        UPDATE inbox.settlement AS s
           SET state = CASE g.state WHEN 'retry' THEN s.claimed_from ELSE g.state END,
               -- What a replay found had a lower number, or none: the same number has to pass once more.
               replay = CASE WHEN g.state = 'retry' AND s.claimed_from <> 'parked' THEN nullif(s.replay - 1, 0)
                             ELSE s.replay END,
               claimed_from = NULL, settled_at = clock_timestamp(),
               error = left(coalesce(nullif(g.error, ''), 'no reason was given'), 2000)
          FROM given AS g
         WHERE s.id = g.id AND s.scope = settle_group.scope AND s.event_time = g.event_time
           AND s.writer = pg_current_xact_id()
           AND CASE g.state
                   WHEN 'retry' THEN s.state IN ('done', 'replayed') AND s.claimed_from IN ('parked', 'dead', 'rejected')
                   ELSE inbox.allowed('transaction', s.state, g.state)
               END
        RETURNING s.id
    )
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM settled) INTO changed;
    IF changed <> cardinality(settle_group.ids) THEN
        RAISE EXCEPTION 'inbox: of % events of scope % only % are claimed by this transaction',
                cardinality(settle_group.ids), settle_group.scope, changed
            USING ERRCODE = 'IB001';
    END IF;
END
$function$;

COMMENT ON FUNCTION inbox.settle_group(text, uuid[], text[], timestamptz[], text[]) IS
    'Decides otherwise about events that this transaction claimed: retry, rejected, dropped or dead. SQLSTATE IB001 if one is not its claim.';

-- The claim of external and at-most-once handlers, in a transaction of its own that is committed before the handler
-- starts. lease NULL means at most once: nobody ever takes it over.
--
-- Verdicts as of inbox.claim_group(), and never repeated. With run come the token, which the settlement needs, and the
-- number of this attempt; with claimed the end of the other's lease; with done and replayed the result.
CREATE FUNCTION inbox.claim(
    scope         text,
    id            uuid,
    created       timestamptz DEFAULT NULL,
    lease         interval    DEFAULT '1 minute',
    replay        integer     DEFAULT NULL,
    topic         text        DEFAULT NULL,
    partition     integer     DEFAULT NULL,
    record_offset bigint      DEFAULT NULL,
    "position"    text        DEFAULT NULL,
    business_key  text        DEFAULT NULL,
    OUT verdict     text,
    OUT token       uuid,
    OUT attempts    integer,
    OUT lease_until timestamptz,
    OUT result      bytea,
    OUT error       text
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    at       CONSTANT timestamptz := clock_timestamp();
    time_of  CONSTANT timestamptz := inbox.event_time(claim.id, claim.created);
    until    timestamptz := coalesce(at + lease, 'infinity');
    fresh    CONSTANT uuid := gen_random_uuid();
    standing inbox.settlement%ROWTYPE;
BEGIN
    PERFORM inbox.require_read_committed();
    FOR attempt IN 1..10 LOOP
        INSERT INTO inbox.settlement (event_time, settled_at, writer, id, scope, state, replay, attempts, first_seen, token,
                                      lease_until, topic, partition, record_offset, position, business_key)
        SELECT time_of, at, pg_current_xact_id(), claim.id, claim.scope, 'claimed', nullif(claim.replay, 0), 1, at, fresh,
               until, claim.topic, claim.partition, claim.record_offset, claim."position", claim.business_key
         WHERE time_of >= (SELECT s.oldest FROM inbox.store AS s) OR time_of = '-infinity'
            ON CONFLICT DO NOTHING;
        IF FOUND THEN
            -- The wait for another's may have taken a part of the lease, or all of it.
            IF clock_timestamp() > at + interval '1 second' THEN
                until := coalesce(clock_timestamp() + lease, 'infinity');
                UPDATE inbox.settlement AS s SET lease_until = until
                 WHERE s.id = claim.id AND s.scope = claim.scope AND s.event_time = time_of;
            END IF;
            verdict := 'run'; token := fresh; attempts := 1; lease_until := until;
            RETURN;
        END IF;
        IF time_of > '-infinity' AND time_of < (SELECT s.oldest FROM inbox.store AS s) THEN
            verdict := 'too_old';
            RETURN;
        END IF;

        -- A new statement: sees what the insert waited for. The lock makes one of two who find a lease ended the next.
        SELECT * INTO standing FROM inbox.settlement AS s
         WHERE s.id = claim.id AND s.scope = claim.scope AND s.event_time = time_of
           FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF inbox.passes(standing.state, standing.lease_until, standing.replay, claim.replay, at) THEN
            until := coalesce(clock_timestamp() + lease, 'infinity');
            UPDATE inbox.settlement AS s
               SET state = 'claimed', claimed_from = s.state, settled_at = at, writer = pg_current_xact_id(), token = fresh,
                   lease_until = until, attempts = coalesce(s.attempts, 0) + 1, error = NULL,
                   first_seen = coalesce(s.first_seen, s.settled_at), replay = coalesce(nullif(claim.replay, 0), s.replay)
             WHERE s.id = claim.id AND s.scope = claim.scope AND s.event_time = time_of
               AND inbox.allowed(CASE s.state WHEN 'claimed' THEN 'lease' ELSE 'replay' END, s.state, 'claimed')
            RETURNING s.attempts INTO attempts;
            verdict := 'run'; token := fresh; lease_until := until;
        ELSE
            verdict := standing.state; attempts := standing.attempts; lease_until := standing.lease_until;
            result := standing.result; error := standing.error;
        END IF;
        RETURN;
    END LOOP;
    RAISE EXCEPTION 'inbox: the settlement of % in scope % comes and goes faster than it can be claimed', claim.id, claim.scope
        USING ERRCODE = 'serialization_failure';
END
$function$;

COMMENT ON FUNCTION inbox.claim(text, uuid, timestamptz, interval, integer, text, integer, bigint, text, text) IS
    'Claims one event for a handler that runs outside of the transaction. run comes with a token; done with the cached result; claimed with the end of the other''s lease. lease NULL: at most once.';

-- Settles what inbox.claim() gave. The token is compared: whoever lost the claim changes nothing, and learns what
-- stands. Settled twice by the same one (a lost answer), it finds its own settlement standing.
CREATE FUNCTION inbox.settle(
    scope   text,
    id      uuid,
    token   uuid,
    state   text,
    created timestamptz DEFAULT NULL,
    result  bytea       DEFAULT NULL,
    error   text        DEFAULT NULL,
    OUT settled         boolean,
    OUT standing        text,
    OUT standing_result bytea
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    IF settle.state IS NULL OR settle.state NOT IN ('done', 'rejected', 'dropped', 'dead') THEN
        RAISE EXCEPTION 'inbox: state must be done, rejected, dropped or dead'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF octet_length(settle.result) > 65536 THEN
        RAISE EXCEPTION 'inbox: result must be at most 65536 bytes'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE inbox.settlement AS s
       SET state = CASE WHEN settle.state = 'done' AND s.replay > 0 THEN 'replayed' ELSE settle.state END,
           settled_at = clock_timestamp(), writer = pg_current_xact_id(), token = NULL, lease_until = NULL,
           result = CASE settle.state WHEN 'done' THEN settle.result END,
           error = CASE WHEN settle.state <> 'done' THEN
               left(coalesce(nullif(settle.error, ''), 'no reason was given'), 2000) END
     WHERE s.id = settle.id AND s.scope = settle.scope AND s.event_time = inbox.event_time(settle.id, settle.created)
       AND s.token = settle.token AND inbox.allowed('token', s.state, settle.state)
    RETURNING s.state, s.result INTO standing, standing_result;
    settled := FOUND;
    IF NOT settled THEN
        SELECT s.state, s.result INTO standing, standing_result FROM inbox.settlement AS s
         WHERE s.id = settle.id AND s.scope = settle.scope AND s.event_time = inbox.event_time(settle.id, settle.created);
    END IF;
END
$function$;

COMMENT ON FUNCTION inbox.settle(text, uuid, uuid, text, timestamptz, bytea, text) IS
    'Settles a claim of inbox.claim() by its token: done, rejected, dropped or dead. settled is false where another has the claim; standing is the state, and standing_result the cached result, either way.';

-- The short form of success.
CREATE FUNCTION inbox.complete(
    scope text, id uuid, token uuid, result bytea DEFAULT NULL, created timestamptz DEFAULT NULL,
    OUT settled boolean, OUT standing text, OUT standing_result bytea
)
    LANGUAGE sql VOLATILE
    RETURN inbox.settle(scope, id, token, 'done', created, result);

COMMENT ON FUNCTION inbox.complete(text, uuid, uuid, bytea, timestamptz) IS
    'Settles a claim of inbox.claim() as done and keeps the result for whoever brings a copy.';

-- Moves the end of a lease: forward while the handler runs, or to now to give the claim back (an attempt that will
-- come again: whoever claims next counts on).
CREATE FUNCTION inbox.renew(
    scope text, id uuid, token uuid, lease interval, created timestamptz DEFAULT NULL
) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    UPDATE inbox.settlement AS s
       SET lease_until = clock_timestamp() + renew.lease
     WHERE s.id = renew.id AND s.scope = renew.scope AND s.event_time = inbox.event_time(renew.id, renew.created)
       AND s.token = renew.token AND inbox.allowed('token', s.state, 'claimed');
    RETURN FOUND;
END
$function$;

COMMENT ON FUNCTION inbox.renew(text, uuid, uuid, interval, timestamptz) IS
    'Moves the end of a lease, by the token; a lease of 0 gives the claim back. False where another has the claim.';
