-- Decisions of operators: each is audited in its own transaction.
--
-- SQLSTATEs: 22023 a wrong argument, IB002 there is no such letter or key, IB003 its state does not allow it.

-- The letter, locked, in the state it is in now; an error where it is not there or in none of the wanted states.
CREATE FUNCTION inbox.require_letter(scope text, letter text, reason text, wanted text[]) RETURNS inbox.dead_letter
    LANGUAGE plpgsql VOLATILE
AS $function$
#variable_conflict use_column
DECLARE
    found_letter inbox.dead_letter%ROWTYPE;
    state_now    text;
BEGIN
    IF coalesce(require_letter.reason, '') = '' THEN
        RAISE EXCEPTION 'inbox: a decision needs a reason' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT * INTO found_letter FROM inbox.dead_letter AS d
     WHERE d.scope = require_letter.scope AND d.letter = require_letter.letter
       FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'inbox: scope % has no dead letter %', require_letter.scope, require_letter.letter
            USING ERRCODE = 'IB002';
    END IF;
    SELECT d.state INTO state_now FROM inbox.dead_letters AS d
     WHERE d.scope = require_letter.scope AND d.letter = require_letter.letter;
    IF state_now <> ALL (wanted) THEN
        RAISE EXCEPTION 'inbox: dead letter % of scope % is %, and would have to be %', require_letter.letter,
                require_letter.scope, state_now, array_to_string(wanted, ' or ')
            USING ERRCODE = 'IB003';
    END IF;
    RETURN found_letter;
END
$function$;

COMMENT ON FUNCTION inbox.require_letter(text, text, text, text[]) IS
    'Part of the decisions: the letter, locked, or SQLSTATE 22023 (no reason), IB002 (not there), IB003 (in another state).';

CREATE FUNCTION inbox.decide_letter(scope text, letter text, decision text, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    IF decision IS NULL OR decision NOT IN ('discard', 'restore') THEN
        RAISE EXCEPTION 'inbox: decision must be discard or restore' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM inbox.require_letter(decide_letter.scope, decide_letter.letter, decide_letter.reason,
        CASE decision WHEN 'discard' THEN '{open,restored,superseded}'::text[] ELSE '{discarded}' END);
    UPDATE inbox.dead_letter AS d
       SET state = CASE decision WHEN 'discard' THEN 'discarded' ELSE 'restored' END,
           note = decide_letter.reason, decided_at = clock_timestamp(), decided_by = session_user
     WHERE d.scope = decide_letter.scope AND d.letter = decide_letter.letter;
    INSERT INTO inbox.audit (action, scope, letter, reason)
    VALUES (decision, decide_letter.scope, decide_letter.letter, decide_letter.reason);
END
$function$;

COMMENT ON FUNCTION inbox.decide_letter(text, text, text, text) IS
    'Discards an open dead letter, or restores a discarded one.';

-- Begins a replay: the letter is replaying, and has the number that the record of the replay carries. The claim lets
-- an event that is dead or rejected pass for a newer number only, so a record that comes twice runs once. This alone
-- is the replay through a topic (ordering = none).
CREATE FUNCTION inbox.begin_replay(scope text, letter text, reason text) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    d      CONSTANT inbox.dead_letter := inbox.require_letter(begin_replay.scope, begin_replay.letter, begin_replay.reason,
                                                              '{open,restored}');
    number CONSTANT integer := 1 + greatest(d.replay, (
        SELECT s.replay FROM inbox.settlement AS s WHERE s.id = d.id AND s.scope = d.scope AND s.event_time = d.event_time));
BEGIN
    UPDATE inbox.dead_letter AS l
       SET state = 'replaying', replay = number, note = begin_replay.reason, decided_at = clock_timestamp(),
           decided_by = session_user
     WHERE l.scope = begin_replay.scope AND l.letter = begin_replay.letter;
    INSERT INTO inbox.audit (action, scope, letter, reason)
    VALUES ('replay', begin_replay.scope, begin_replay.letter, begin_replay.reason);
    RETURN number;
END
$function$;

COMMENT ON FUNCTION inbox.begin_replay(text, text, text) IS
    'Marks an open dead letter as replaying and answers the number that its replay has to carry.';

-- A replay that keeps the order of the key: settlement, marker and parked event in one transaction, so that live
-- events of the key queue behind it from the commit on. It needs the record, which the caller read from the topic.
-- Where the key is parked already it joins as its last event. Answers parked, or full.
CREATE FUNCTION inbox.replay_parked(
    scope         text,
    letter        text,
    reason        text,
    partition     integer,
    record_offset bigint,
    record_time   timestamptz,
    record_key    bytea,
    record_value  bytea,
    headers       json,
    order_by      bytea   DEFAULT NULL,
    max_of_key    integer DEFAULT 10000,
    max_in_all    integer DEFAULT 100000,
    max_bytes     bigint  DEFAULT 1073741824
) RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    number  CONSTANT integer := inbox.begin_replay(replay_parked.scope, replay_parked.letter, replay_parked.reason);
    ordered CONSTANT bytea := coalesce(order_by, replay_parked.record_key);
    d       inbox.dead_letter%ROWTYPE;
    answer  text;
BEGIN
    PERFORM inbox.require_read_committed();
    SELECT * INTO d FROM inbox.dead_letter AS l
     WHERE l.scope = replay_parked.scope AND l.letter = replay_parked.letter;
    IF d.id IS NULL OR ordered IS NULL THEN
        RAISE EXCEPTION 'inbox: dead letter % has no settlement or no key, and cannot wait in the park', d.letter
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE inbox.settlement AS s
       SET state = 'parked', replay = number, claimed_from = NULL, settled_at = clock_timestamp(),
           writer = pg_current_xact_id(), error = left(replay_parked.reason, 2000)
     WHERE s.id = d.id AND s.scope = d.scope AND s.event_time = d.event_time
       AND inbox.allowed('replay', s.state, 'parked') AND number > coalesce(s.replay, 0);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'inbox: the event of dead letter % is not settled as dead or rejected', d.letter
            USING ERRCODE = 'IB003';
    END IF;
    FOR attempt IN 1..10 LOOP
        INSERT INTO inbox.parked_key (scope, topic, key, state, attempts, rung, due, first_failed_at, last_failed_at,
                                      last_error)
        VALUES (d.scope, d.source_topic, inbox.order_key(ordered), 'waiting', 0, 0, clock_timestamp(), d.first_failed_at,
                d.last_failed_at, d.error)
            ON CONFLICT DO NOTHING;
        answer := inbox.append_parked(d.scope, d.source_topic, ordered, ARRAY[d.id], ARRAY[d.event_time], ARRAY[number],
            ARRAY[replay_parked.partition], ARRAY[replay_parked.record_offset], ARRAY[replay_parked.record_time],
            ARRAY[replay_parked.record_key], ARRAY[replay_parked.record_value], ARRAY[replay_parked.headers],
            max_of_key, max_in_all, max_bytes);
        EXIT WHEN answer <> 'unmarked';
    END LOOP;
    IF answer <> 'parked' THEN
        RAISE EXCEPTION 'inbox: the park of scope % is full', d.scope USING ERRCODE = 'program_limit_exceeded';
    END IF;
    RETURN answer;
END
$function$;

COMMENT ON FUNCTION inbox.replay_parked(text, text, text, integer, bigint, timestamptz, bytea, bytea, json, bytea, integer, integer, bigint) IS
    'Replays a dead letter in the order of its key: settled as parked under a newer number, with marker and record, in one transaction.';

CREATE FUNCTION inbox.hold_parked_key(scope text, topic text, key bytea, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    UPDATE inbox.parked_key AS p SET state = 'held', held_by = 'operator'
     WHERE p.scope = hold_parked_key.scope AND p.topic = hold_parked_key.topic
       AND p.key = inbox.order_key(hold_parked_key.key) AND p.state = 'waiting';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'inbox: scope % has no waiting key of this name in topic %', hold_parked_key.scope, hold_parked_key.topic
            USING ERRCODE = 'IB002';
    END IF;
    INSERT INTO inbox.audit (action, scope, topic, key, reason)
    VALUES ('hold', hold_parked_key.scope, hold_parked_key.topic, hold_parked_key.key, hold_parked_key.reason);
END
$function$;

COMMENT ON FUNCTION inbox.hold_parked_key(text, text, bytea, text) IS
    'Holds a parked key: nothing of it runs until inbox.release_parked_key().';

CREATE FUNCTION inbox.release_parked_key(scope text, topic text, key bytea, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    UPDATE inbox.parked_key AS p SET state = 'waiting', held_by = NULL, due = clock_timestamp(), rung = 0, attempts = 0
     WHERE p.scope = release_parked_key.scope AND p.topic = release_parked_key.topic
       AND p.key = inbox.order_key(release_parked_key.key) AND p.state = 'held';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'inbox: scope % has no held key of this name in topic %', release_parked_key.scope, release_parked_key.topic
            USING ERRCODE = 'IB002';
    END IF;
    INSERT INTO inbox.audit (action, scope, topic, key, reason)
    VALUES ('release', release_parked_key.scope, release_parked_key.topic, release_parked_key.key, release_parked_key.reason);
END
$function$;

COMMENT ON FUNCTION inbox.release_parked_key(text, text, bytea, text) IS
    'Lets a held key run again, now and with its ladder from the beginning.';
