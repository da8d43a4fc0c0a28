-- How long settlements are kept, and the upkeep of the partitions.

-- What each consumer declared when it started: the longest way that a copy of an event can take back to it.
CREATE TABLE inbox.scope (
    scope       text        COLLATE "C" PRIMARY KEY CHECK (scope <> ''),
    floor       interval    NOT NULL CHECK (floor > '0'),
    kept        interval    NOT NULL CHECK (kept > '0'),
    explained   text        NOT NULL,
    signed_by   text,
    declared_at timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT scope_signed CHECK (kept >= floor OR signed_by IS NOT NULL)
);

COMMENT ON TABLE inbox.scope IS
    'The consumers of this inbox and how long their settlements have to be kept. The longest counts for all.';
COMMENT ON COLUMN inbox.scope.scope IS
    'The consumer''s name.';
COMMENT ON COLUMN inbox.scope.floor IS
    'The longest time after which a copy of an event can still come.';
COMMENT ON COLUMN inbox.scope.kept IS
    'How long settlements are kept: the floor, or less where somebody signed for it.';
COMMENT ON COLUMN inbox.scope.explained IS
    'The arithmetic of the floor, as a sentence.';
COMMENT ON COLUMN inbox.scope.signed_by IS
    'Who signed for keeping them for less than the floor, or than before.';
COMMENT ON COLUMN inbox.scope.declared_at IS
    'When that was declared.';

-- The ways add up, since one copy can take them all: read from the topic at the end of its retention, through the
-- ladder, into the dead letters, replayed on their last day; and beforehand the relay may have published it again from
-- its table, which holds eight days.
CREATE FUNCTION inbox.retention_floor(
    source_retention   interval,
    ladder             interval,
    dead_letter_window interval,
    relay_horizon      interval DEFAULT '8 days',
    OUT floor     interval,
    OUT explained text
)
    LANGUAGE plpgsql IMMUTABLE
AS $function$
BEGIN
    IF source_retention IS NULL OR ladder IS NULL OR dead_letter_window IS NULL OR relay_horizon IS NULL THEN
        RAISE EXCEPTION 'inbox: source_retention, ladder, dead_letter_window and relay_horizon must not be NULL; what is kept for ever has no floor, and needs a store by version'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF least(source_retention, ladder, dead_letter_window, relay_horizon) < interval '0' THEN
        RAISE EXCEPTION 'inbox: source_retention, ladder, dead_letter_window and relay_horizon must not be negative'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    floor := source_retention + ladder + dead_letter_window + relay_horizon;
    explained := format('A copy can come for %s: %s that the topic keeps it, %s on the ladder, %s among the dead letters, %s for which the relay may publish it again.',
        floor, source_retention, ladder, dead_letter_window, relay_horizon);
END
$function$;

COMMENT ON FUNCTION inbox.retention_floor(interval, interval, interval, interval) IS
    'How long settlements have to be kept at least, and the arithmetic in a sentence.';

-- What a consumer says when it starts. It is refused where settlements would be kept for less than the floor, or for
-- less than was declared before, unless somebody signs: an instance with an older configuration may still run.
CREATE FUNCTION inbox.declare_scope(
    scope              text,
    source_retention   interval,
    ladder             interval,
    dead_letter_window interval,
    relay_horizon      interval DEFAULT '8 days',
    kept               interval DEFAULT NULL,
    signed_by          text     DEFAULT NULL,
    OUT floor     interval,
    OUT explained text
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    asked  interval;
    before interval;
BEGIN
    SELECT f.floor, f.explained INTO floor, explained
      FROM inbox.retention_floor(source_retention, ladder, dead_letter_window, relay_horizon) AS f;
    asked := coalesce(declare_scope.kept, declare_scope.floor);
    PERFORM pg_advisory_xact_lock(hashtextextended('inbox scope ' || declare_scope.scope, 0));
    SELECT s.kept INTO before FROM inbox.scope AS s WHERE s.scope = declare_scope.scope;
    IF coalesce(declare_scope.signed_by, '') = '' AND asked < greatest(declare_scope.floor, before) THEN
        RAISE EXCEPTION 'inbox: settlements of scope % would be kept for %, and have to be for %. % Less needs signed_by.',
                declare_scope.scope, asked, greatest(declare_scope.floor, before), declare_scope.explained
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO inbox.scope AS s (scope, floor, kept, explained, signed_by)
    VALUES (declare_scope.scope, declare_scope.floor, asked, declare_scope.explained, nullif(declare_scope.signed_by, ''))
        ON CONFLICT (scope) DO UPDATE
       SET floor = excluded.floor, kept = excluded.kept, explained = excluded.explained,
           signed_by = excluded.signed_by, declared_at = clock_timestamp();
    IF asked < greatest(declare_scope.floor, before) THEN
        INSERT INTO inbox.audit (action, scope, reason)
        VALUES ('floor', declare_scope.scope, format('kept for %s, signed by %s. %s', asked, declare_scope.signed_by,
                                                     declare_scope.explained));
    END IF;
END
$function$;

COMMENT ON FUNCTION inbox.declare_scope(text, interval, interval, interval, interval, interval, text) IS
    'Declares a consumer and how long its settlements are kept. Refuses less than the floor, or than before, unless signed.';

-- Makes the partitions from the newest on, a day each. Rows of theirs that went to the default partition move.
-- ATTACH and not PARTITION OF, which would need the whole table alone; a lock_timeout of the caller's ends a wait.
CREATE FUNCTION inbox.make_partitions(until timestamptz) RETURNS integer
    LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    lower_bound timestamptz := (SELECT s.newest FROM inbox.store AS s);
    upper_bound timestamptz;
    name        text;
    made        integer := 0;
BEGIN
    WHILE lower_bound < until LOOP
        upper_bound := lower_bound + interval '24 hours';
        name := 'settlement_' || to_char(lower_bound AT TIME ZONE 'UTC', 'YYYYMMDD');
        LOCK TABLE inbox.settlement_later IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('CREATE TABLE inbox.%I (LIKE inbox.settlement INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
        EXECUTE format(
            'WITH moved AS (DELETE FROM inbox.settlement_later WHERE event_time >= %L AND event_time < %L RETURNING *)
             INSERT INTO inbox.%I SELECT * FROM moved', lower_bound, upper_bound, name);
        EXECUTE format('ALTER TABLE inbox.settlement ATTACH PARTITION inbox.%I FOR VALUES FROM (%L) TO (%L)',
            name, lower_bound, upper_bound);
        INSERT INTO inbox.settlement_partition (lower, upper, name) VALUES (lower_bound, upper_bound, name);
        UPDATE inbox.store SET newest = upper_bound;
        lower_bound := upper_bound;
        made := made + 1;
    END LOOP;
    RETURN made;
END
$function$;

COMMENT ON FUNCTION inbox.make_partitions(timestamptz) IS
    'Part of inbox.upkeep(): makes a partition for each day until then.';

-- Drops the oldest partitions, while everything about them is older than what is kept: their bound, and their newest
-- settlement (an event with a wrong clock may have been settled today in a partition of last month), and nothing of
-- them waits in the park. Looked at first without a lock, then under it: no claim is under way then, for each holds a
-- lock on the table until its end.
CREATE FUNCTION inbox.drop_partitions(before timestamptz) RETURNS integer
    LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    first   inbox.settlement_partition%ROWTYPE;
    in_use  boolean;
    dropped integer := 0;
    look    text;
BEGIN
    LOOP
        SELECT * INTO first FROM inbox.settlement_partition AS p ORDER BY p.lower LIMIT 1;
        EXIT WHEN NOT FOUND OR first.upper > before;
        look := format('SELECT EXISTS (SELECT FROM inbox.%I WHERE settled_at >= %L)
                            OR EXISTS (SELECT FROM inbox.parked_event WHERE event_time >= %L AND event_time < %L)',
                       first.name, before, first.lower, first.upper);
        PERFORM brin_summarize_new_values(format('inbox.%I', first.name || '_settled_at_idx')::regclass);
        EXECUTE look INTO in_use;
        EXIT WHEN in_use;
        LOCK TABLE inbox.settlement IN ACCESS EXCLUSIVE MODE;
        EXECUTE look INTO in_use;
        EXIT WHEN in_use;
        EXECUTE format('DROP TABLE inbox.%I', first.name);
        DELETE FROM inbox.settlement_partition AS p WHERE p.lower = first.lower;
        UPDATE inbox.store SET oldest = first.upper;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$function$;

COMMENT ON FUNCTION inbox.drop_partitions(timestamptz) IS
    'Part of inbox.upkeep(): drops the oldest partitions whose bound and newest settlement are before then.';

-- Old settlements of keys without a time, a batch of them.
CREATE FUNCTION inbox.prune_untimed(before timestamptz, batch integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    pruned integer;
BEGIN
    DELETE FROM inbox.settlement_untimed AS s
     USING (SELECT o.id, o.scope FROM inbox.settlement_untimed AS o
             WHERE o.settled_at < before
               AND NOT EXISTS (SELECT FROM inbox.parked_event AS e
                                WHERE e.id = o.id AND e.scope = o.scope AND e.event_time = o.event_time)
             ORDER BY o.settled_at LIMIT batch
               FOR UPDATE SKIP LOCKED) AS old
     WHERE s.id = old.id AND s.scope = old.scope AND s.settled_at < before;
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$function$;

COMMENT ON FUNCTION inbox.prune_untimed(timestamptz, integer) IS
    'Part of inbox.upkeep(): deletes a batch of old settlements of keys without a time.';

-- The upkeep as of a time, which only the owner may choose.
--
-- By one instance at a time. Each part waits for locks for 200 ms at most and is undone as a whole where that is too
-- short: everybody else would queue behind a waiting ACCESS EXCLUSIVE. The next call makes up for it.
CREATE FUNCTION inbox.upkeep_at(
    at timestamptz, ahead interval, batch integer, OUT made integer, OUT dropped integer, OUT pruned integer, OUT said text
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '200ms'
    SET enable_seqscan = off
    -- Bounds are printed for DDL, and read again.
    SET datestyle = 'ISO, YMD'
    SET timezone = 'UTC'
AS $function$
DECLARE
    kept CONSTANT interval := (SELECT max(s.kept) FROM inbox.scope AS s);
BEGIN
    made := 0; dropped := 0; pruned := 0;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('inbox upkeep', 0)) THEN
        said := 'another instance is at it';
        RETURN;
    END IF;
    BEGIN
        made := inbox.make_partitions(at + ahead);
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        said := 'no partition was made: the one for later times is in use';
    END;
    IF kept IS NULL THEN
        said := coalesce(said, 'nothing is dropped: no scope is declared');
        RETURN;
    END IF;
    BEGIN
        dropped := inbox.drop_partitions(at - kept);
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        said := concat_ws('; ', said, 'no partition was dropped: the table is in use');
    END;
    pruned := inbox.prune_untimed(at - kept, batch);
    said := coalesce(said, format('settlements are kept for %s', kept));
END
$function$;

COMMENT ON FUNCTION inbox.upkeep_at(timestamptz, interval, integer) IS
    'inbox.upkeep() as of another time. For the owner.';

CREATE FUNCTION inbox.upkeep(
    ahead interval DEFAULT '7 days', batch integer DEFAULT 10000,
    OUT made integer, OUT dropped integer, OUT pruned integer, OUT said text
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    SELECT u.made, u.dropped, u.pruned, u.said INTO made, dropped, pruned, said
      FROM inbox.upkeep_at(clock_timestamp(), least(ahead, '60 days'), batch) AS u;
END
$function$;

COMMENT ON FUNCTION inbox.upkeep(interval, integer) IS
    'Makes the partitions ahead, drops and deletes what is older than what the scopes keep. To be called now and then, as a transaction of its own; one instance at a time does it.';
