-- What workers and claimants do with parked keys. inbox.parked_key says who writes what and why it is right.

-- Parks a key: its first event, which failed, and the later events of the key that this transaction claimed. All of
-- them are this transaction's claims (or the first is one of inbox.claim(), by its token). Answers parked, or full:
-- then nothing is written, and the caller keeps the events, visibly; it may not drop them.
--
-- A marker that is there (an older event of the key was parked by another owner) is joined, its ladder unchanged.
-- The bounds: events of one key, events of the scope, bytes of the scope. Those of the scope are added up from the
-- markers, and let through what parks at the same moment.
CREATE FUNCTION inbox.park(
    scope         text,
    topic         text,
    key           bytea,
    due           timestamptz,
    error         text,
    ids           uuid[],
    partitions    integer[],
    offsets       bigint[],
    times         timestamptz[],
    record_keys   bytea[],
    record_values bytea[],
    headers       json[],
    created       timestamptz[] DEFAULT NULL,
    attempts      integer       DEFAULT 1,
    rung          integer       DEFAULT 0,
    held_by       text          DEFAULT NULL,
    token         uuid          DEFAULT NULL,
    max_of_key    integer       DEFAULT 10000,
    max_in_all    integer       DEFAULT 100000,
    max_bytes     bigint        DEFAULT 1073741824
) RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    the_key CONSTANT bytea := inbox.order_key(park.key);
    said    CONSTANT text := left(coalesce(nullif(park.error, ''), 'no reason was given'), 2000);
    made    boolean;
    answer  text;
BEGIN
    PERFORM inbox.require_read_committed();
    FOR attempt IN 1..10 LOOP
        INSERT INTO inbox.parked_key (scope, topic, key, state, held_by, attempts, rung, due, first_failed_at,
                                      last_failed_at, last_error)
        VALUES (park.scope, park.topic, the_key, CASE WHEN park.held_by IS NULL THEN 'waiting' ELSE 'held' END,
                park.held_by, park.attempts, park.rung, park.due, clock_timestamp(), clock_timestamp(), said)
            ON CONFLICT DO NOTHING;
        made := FOUND;
        answer := inbox.append_parked(park.scope, park.topic, park.key, park.ids, park.created, NULL, partitions, offsets,
                                      times, record_keys, record_values, park.headers, max_of_key, max_in_all, max_bytes);
        IF answer = 'parked' THEN
            PERFORM inbox.settle_parked(park.scope, park.ids, park.created, said, park.token);
        ELSIF made THEN
            DELETE FROM inbox.parked_key AS p
             WHERE p.scope = park.scope AND p.topic = park.topic AND p.key = the_key AND p.waiting = 0;
        END IF;
        EXIT WHEN answer <> 'unmarked';
    END LOOP;
    RETURN answer;
END
$function$;

COMMENT ON FUNCTION inbox.park(text, text, bytea, timestamptz, text, uuid[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], timestamptz[], integer, integer, text, uuid, integer, integer, bigint) IS
    'Parks a key: marker, failing event and the later events of the key that this transaction claimed. Answers parked or full.';

-- Queues claimed events behind a marker. unmarked: it is gone by now; look again (inbox.marked()), and run them if
-- there is none. Nothing is changed then, so no savepoint is needed.
CREATE FUNCTION inbox.follow(
    scope         text,
    topic         text,
    key           bytea,
    ids           uuid[],
    partitions    integer[],
    offsets       bigint[],
    times         timestamptz[],
    record_keys   bytea[],
    record_values bytea[],
    headers       json[],
    created       timestamptz[] DEFAULT NULL,
    max_of_key    integer       DEFAULT 10000,
    max_in_all    integer       DEFAULT 100000,
    max_bytes     bigint        DEFAULT 1073741824
) RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    answer CONSTANT text := inbox.append_parked(
        follow.scope, follow.topic, follow.key, follow.ids, follow.created, NULL, partitions, offsets, times, record_keys,
        record_values, follow.headers, max_of_key, max_in_all, max_bytes);
BEGIN
    IF answer = 'parked' THEN
        PERFORM inbox.settle_parked(follow.scope, follow.ids, follow.created, 'an earlier event of the key is parked', NULL);
    END IF;
    RETURN answer;
END
$function$;

COMMENT ON FUNCTION inbox.follow(text, text, bytea, uuid[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], timestamptz[], integer, integer, bigint) IS
    'Queues events that this transaction claimed behind a parked key. Answers parked, unmarked (look again) or full.';

-- The lock of a claimant: of the transaction, and not on the marker's row, which followers count in meanwhile.
CREATE FUNCTION inbox.try_parked_lock(scope text, topic text, key bytea) RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN pg_try_advisory_xact_lock(hashtextextended(
        format('inbox parked %s %s %s', scope, topic, encode(key, 'hex')), 0));

COMMENT ON FUNCTION inbox.try_parked_lock(text, text, bytea) IS
    'Takes the lock of a parked key for this transaction; false where another claimant has it.';

-- One key that is due and that no other claimant has, locked for this transaction; no row where there is none.
CREATE FUNCTION inbox.take_parked_key(scope text) RETURNS SETOF inbox.parked_key
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    candidate record;
BEGIN
    FOR candidate IN
        SELECT p.topic, p.key FROM inbox.parked_key AS p
         WHERE p.scope = take_parked_key.scope AND p.state = 'waiting' AND p.due <= clock_timestamp()
         ORDER BY p.due LIMIT 100
    LOOP
        CONTINUE WHEN NOT inbox.try_parked_lock(take_parked_key.scope, candidate.topic, candidate.key);
        -- With the lock, and in a newer statement: the claimant before us may have been through with it.
        RETURN QUERY SELECT p.* FROM inbox.parked_key AS p
             WHERE p.scope = take_parked_key.scope AND p.topic = candidate.topic AND p.key = candidate.key
               AND p.state = 'waiting' AND p.due <= clock_timestamp();
        EXIT WHEN FOUND;
    END LOOP;
END
$function$;

COMMENT ON FUNCTION inbox.take_parked_key(text) IS
    'A parked key that is due, locked for this transaction; no row where there is none that another claimant does not have.';

-- The first events of a parked key, in order, claimed for this transaction: they are done when it commits, like those
-- of inbox.claim_group(). With a lease they are claimed for an external handler instead: commit, run, settle by the
-- token; nobody takes the key before the lease ends.
--
-- verdict is run, or what stands where the event was settled otherwise meanwhile: skip it, and unpark it too. No row
-- while the first event is with an external handler.
-- The handler fails: inbox.settle_group(... 'retry') makes it wait again, and inbox.delay() says until when.
CREATE FUNCTION inbox.resume(
    scope text,
    topic text,
    key   bytea,
    most  integer  DEFAULT 1,
    lease interval DEFAULT NULL
) RETURNS TABLE (
    verdict text, seq bigint, id uuid, event_time timestamptz, replay integer, token uuid, partition integer,
    record_offset bigint, record_time timestamptz, record_key bytea, record_value bytea, headers json
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    the_key CONSTANT bytea := inbox.order_key(resume.key);
    at      CONSTANT timestamptz := clock_timestamp();
    me      CONSTANT xid8 := pg_current_xact_id();
    seqs    bigint[];
BEGIN
    PERFORM inbox.require_read_committed();
    IF NOT inbox.try_parked_lock(resume.scope, resume.topic, the_key) THEN
        RAISE EXCEPTION 'inbox: another claimant has this key of topic %', resume.topic
            USING ERRCODE = 'lock_not_available';
    END IF;
    -- Up to the first that an external handler still has: nothing overtakes it. The places are fixed here, for
    -- followers go on coming.
    SELECT array_agg(f.seq) INTO seqs
      FROM (SELECT e.seq, bool_or(coalesce(s.state = 'claimed' AND s.lease_until >= at, false)) OVER (ORDER BY e.seq) AS behind
              FROM inbox.parked_event AS e
              LEFT JOIN inbox.settlement AS s ON s.id = e.id AND s.scope = e.scope AND s.event_time = e.event_time
             WHERE e.scope = resume.scope AND e.topic = resume.topic AND e.key = the_key
               AND e.seq IN (SELECT o.seq FROM inbox.parked_event AS o
                              WHERE o.scope = resume.scope AND o.topic = resume.topic AND o.key = the_key
                              ORDER BY o.seq LIMIT most)) AS f
     WHERE NOT f.behind;
    UPDATE inbox.settlement AS s
       SET state = CASE WHEN lease IS NOT NULL THEN 'claimed' WHEN s.replay > 0 THEN 'replayed' ELSE 'done' END,
           claimed_from = 'parked', settled_at = at, writer = me, error = NULL,
           first_seen = coalesce(s.first_seen, s.settled_at),
           token = CASE WHEN lease IS NOT NULL THEN gen_random_uuid() END,
           lease_until = at + lease,
           attempts = CASE WHEN lease IS NOT NULL THEN coalesce(s.attempts, 0) + 1 ELSE s.attempts END
      FROM inbox.parked_event AS e
     WHERE e.scope = resume.scope AND e.topic = resume.topic AND e.key = the_key AND e.seq = ANY (seqs)
       AND s.id = e.id AND s.scope = resume.scope AND s.event_time = e.event_time
       AND (inbox.allowed('claimant', s.state, 'done')
            OR inbox.allowed('lease', s.state, 'done') AND s.lease_until < at);
    IF lease IS NOT NULL AND seqs IS NOT NULL THEN
        UPDATE inbox.parked_key AS p SET due = at + lease
         WHERE p.scope = resume.scope AND p.topic = resume.topic AND p.key = the_key;
    END IF;
    RETURN QUERY
        SELECT CASE WHEN s.writer = me AND s.claimed_from = 'parked' THEN 'run' ELSE coalesce(s.state, 'too_old') END,
               e.seq, e.id, e.event_time, e.replay, CASE WHEN s.writer = me THEN s.token END, e.partition, e.record_offset,
               e.record_time, e.record_key, e.record_value, e.headers
          FROM inbox.parked_event AS e
          LEFT JOIN inbox.settlement AS s ON s.id = e.id AND s.scope = e.scope AND s.event_time = e.event_time
         WHERE e.scope = resume.scope AND e.topic = resume.topic AND e.key = the_key AND e.seq = ANY (seqs)
         ORDER BY e.seq;
END
$function$;

COMMENT ON FUNCTION inbox.resume(text, text, bytea, integer, interval) IS
    'The first events of a parked key in order, claimed for this transaction or, with a lease, for an external handler.';

-- The first event failed again: its key waits until due. Its claim is given back before, by settle_group() or renew().
-- held_by: it is exhausted, and the policy of its topic holds the key. What an operator holds stays held. An attempt is
-- counted before it begins, in a transaction of its own, since it may end the process; its failure then counts no more.
-- The deadline of an event runs from the first attempt that counts: not from when the event before it failed, nor from
-- before somebody released its key or replayed it.
CREATE FUNCTION inbox.delay(
    scope text, topic text, key bytea, due timestamptz, error text, rung integer DEFAULT NULL, held_by text DEFAULT NULL,
    counts integer DEFAULT 1
) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    UPDATE inbox.parked_key AS p
       SET attempts = greatest(p.attempts + counts, 0), rung = coalesce(delay.rung, p.rung), due = delay.due,
           state = CASE WHEN delay.held_by IS NULL AND p.state = 'waiting' THEN 'waiting' ELSE 'held' END,
           held_by = coalesce(p.held_by, delay.held_by),
           first_failed_at = CASE WHEN counts > 0 AND p.attempts = 0 THEN clock_timestamp() ELSE p.first_failed_at END,
           last_failed_at = clock_timestamp(),
           last_error = left(coalesce(nullif(delay.error, ''), 'no reason was given'), 2000)
     WHERE p.scope = delay.scope AND p.topic = delay.topic AND p.key = inbox.order_key(delay.key);
    RETURN FOUND;
END
$function$;

COMMENT ON FUNCTION inbox.delay(text, text, bytea, timestamptz, text, integer, text, integer) IS
    'Counts a failed attempt of a parked key (counts 1), none (0), or takes one back that was nobody''s fault (-1), and says when the next is due, or that the key is held.';

-- Takes settled events off a parked key, and answers how many are left. Those whose settlement still is parked or
-- claimed stay, whatever is asked. The next event begins its own ladder, now.
CREATE FUNCTION inbox.unpark(scope text, topic text, key bytea, seqs bigint[]) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    the_key CONSTANT bytea := inbox.order_key(unpark.key);
    left_over integer;
BEGIN
    WITH gone AS (
        DELETE FROM inbox.parked_event AS e
         WHERE e.scope = unpark.scope AND e.topic = unpark.topic AND e.key = the_key AND e.seq = ANY (seqs)
           AND NOT EXISTS (SELECT FROM inbox.settlement AS s
                            WHERE s.id = e.id AND s.scope = e.scope AND s.event_time = e.event_time
                              AND s.state IN ('parked', 'claimed'))
        RETURNING e.bytes
    ), total AS (
        SELECT count(*)::integer AS events, coalesce(sum(bytes), 0) AS bytes FROM gone
    )
    UPDATE inbox.parked_key AS p
       SET waiting = p.waiting - t.events, bytes = p.bytes - t.bytes,
           attempts = CASE WHEN t.events > 0 THEN 0 ELSE p.attempts END,
           rung = CASE WHEN t.events > 0 THEN 0 ELSE p.rung END,
           due = CASE WHEN t.events > 0 THEN clock_timestamp() ELSE p.due END,
           first_failed_at = CASE WHEN t.events > 0 THEN clock_timestamp() ELSE p.first_failed_at END,
           last_error = CASE WHEN t.events > 0 THEN 'it waited behind an event that is settled' ELSE p.last_error END
      FROM total AS t
     WHERE p.scope = unpark.scope AND p.topic = unpark.topic AND p.key = the_key
    RETURNING p.waiting INTO left_over;
    RETURN coalesce(left_over, 0);
END
$function$;

COMMENT ON FUNCTION inbox.unpark(text, text, bytea, bigint[]) IS
    'Takes settled events off a parked key and answers how many are left.';

-- Before the marker goes, in the transaction that removes it: from here on followers wait, and then look again.
-- Answers how many events are left; NULL where there is no marker.
CREATE FUNCTION inbox.lock_parked_key(scope text, topic text, key bytea) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    behind integer;
BEGIN
    SELECT p.waiting INTO behind FROM inbox.parked_key AS p
     WHERE p.scope = lock_parked_key.scope AND p.topic = lock_parked_key.topic AND p.key = inbox.order_key(lock_parked_key.key)
       FOR UPDATE;
    RETURN behind;
END
$function$;

COMMENT ON FUNCTION inbox.lock_parked_key(text, text, bytea) IS
    'Locks a marker against followers and answers how many events stand behind it; NULL where it is gone.';

-- The count stands in the row itself: a DELETE that waited for a follower looks at the row again, and would not look
-- into another table again.
CREATE FUNCTION inbox.remove_parked_key(scope text, topic text, key bytea) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    DELETE FROM inbox.parked_key AS p
     WHERE p.scope = remove_parked_key.scope AND p.topic = remove_parked_key.topic
       AND p.key = inbox.order_key(remove_parked_key.key) AND p.waiting = 0;
    RETURN FOUND;
END
$function$;

COMMENT ON FUNCTION inbox.remove_parked_key(text, text, bytea) IS
    'Removes a marker behind which nothing stands; false where something does.';
