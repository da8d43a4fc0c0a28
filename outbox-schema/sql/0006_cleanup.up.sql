-- Clean-up: a past bucket whose every row is published is emptied by the relay.
--
-- The relay has no right to empty anything. It calls outbox.clean_bucket(), which runs with the rights of the
-- owner and looks for itself. What it takes from the caller is which transactions are published: a snapshot out of a
-- state record that Kafka has acknowledged, and the log position up to which everything visible in it was committed.
-- The server's own slots have to have been confirmed as far.
--
-- Who has to be waited for: whoever publishes the table has a publication called outbox_<relay> on it, and a slot of
-- the same name. While one of them is not streaming, its relay may be about to publish from the table (a fill).

CREATE OR REPLACE FUNCTION outbox.relay_behind(published_lsn pg_lsn) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    relays integer;
    behind text;
BEGIN
    SELECT count(*), min(CASE
               WHEN s.slot_name IS NULL THEN format('publication %s has no slot', t.pubname)
               WHEN s.wal_status IS NULL OR s.wal_status NOT IN ('reserved', 'extended')
                   THEN format('slot %s is %s', s.slot_name, coalesce(s.wal_status, 'without log'))
               WHEN NOT s.active THEN format('nobody streams from slot %s', s.slot_name)
               WHEN s.confirmed_flush_lsn IS NULL OR s.confirmed_flush_lsn < relay_behind.published_lsn
                   THEN format('slot %s is confirmed up to %s and not to %s', s.slot_name,
                               coalesce(s.confirmed_flush_lsn, '0/0'), relay_behind.published_lsn)
           END)
      INTO relays, behind
      FROM pg_publication_tables AS t
      LEFT JOIN pg_replication_slots AS s ON s.slot_name = t.pubname AND s.database = current_database()
     WHERE t.schemaname = 'outbox' AND t.tablename = 'events' AND starts_with(t.pubname::text, 'outbox_');
    RETURN CASE relays WHEN 0 THEN 'no publication outbox_<relay> holds outbox.events' ELSE behind END;
END
$function$;

COMMENT ON FUNCTION outbox.relay_behind(pg_lsn) IS
    'Why a relay of outbox.events may still need rows that were committed up to this log position; NULL when none does.';

-- One call is one transaction, and nobody waits for it for long:
--
--   1. What needs no look at the rows: the bucket's day, the relays, transactions that have written into it and run on.
--   2. A look at the rows without a lock; it ends at the first one that has to stay.
--   3. SHARE ROW EXCLUSIVE: nobody writes any more, everybody reads. Services write into the bucket of their day,
--      so none of them waits. Each row is looked at again, since one may have been committed meanwhile.
--   4. ACCESS EXCLUSIVE, for the moment of the TRUNCATE; what was looked at under 3 cannot have changed. The relays are
--      looked at again: from here on a slot that is made waits for this transaction, and its snapshot comes after it.
--
-- kept_by is NULL where the bucket is empty now; otherwise it is why it stays, and detail says it in words:
--   young        today's, younger than keep, or about to be tomorrow's
--   relay        a relay is not there, or not that far
--   open         a transaction that wrote into it has not ended
--   unpublished  a row whose transaction the snapshot does not show, or a snapshot that is not of this server's past
--   quarantine   an entry of the quarantine that is not settled needs the row, being no more than a reference to it
-- A lock that is not given within lock_timeout (500 ms unless set) ends it with SQLSTATE 55P03; nothing is changed then.
CREATE OR REPLACE FUNCTION outbox.clean_bucket(
    bucket        integer,
    published     pg_snapshot,
    published_lsn pg_lsn,
    keep          interval,
    OUT cleaned   bigint,
    OUT kept_by   text,
    OUT detail    text
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    -- The next midnight comes within this: a lock must not meet the services of the new day.
    midnight   CONSTANT integer := 600;
    seconds    CONSTANT bigint := floor(date_part('epoch', clock_timestamp()))::bigint;
    today      CONSTANT bigint := seconds / 86400;
    -- Days since the bucket was today's; of the seven past days and today each has its own.
    days       CONSTANT bigint := ((today - bucket) % 8 + 8) % 8;
    table_name CONSTANT text := 'outbox.events_' || bucket;
    referenced text[];
    hindrance  text;
    empty      boolean;
BEGIN
    IF bucket IS NULL OR bucket NOT BETWEEN 0 AND 7 THEN
        RAISE EXCEPTION 'outbox clean-up: bucket must be 0 to 7' USING ERRCODE = 'invalid_parameter_value';
    ELSIF num_nulls(published, published_lsn) > 0 THEN
        RAISE EXCEPTION 'outbox clean-up: published and published_lsn must not be NULL'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF keep IS NULL OR keep < interval '0' OR keep > interval '144 hours' THEN
        RAISE EXCEPTION 'outbox clean-up: keep must be an interval of 0 to 144 hours'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
        -- With one snapshot for all statements the second look would see what the first one saw.
        RAISE EXCEPTION 'outbox clean-up: has to run at READ COMMITTED'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    cleaned := 0;

    IF days = 0 OR to_timestamp((today - days + 1) * 86400) + keep > clock_timestamp() THEN
        kept_by := 'young';
        detail := format('bucket %s is %s days old', bucket, days);
        RETURN;
    ELSIF days = 7 AND seconds % 86400 >= 86400 - midnight THEN
        kept_by := 'young';
        detail := format('bucket %s is about to be tomorrow''s', bucket);
        RETURN;
    ELSIF pg_snapshot_xmax(published) > pg_snapshot_xmax(pg_current_snapshot()) THEN
        kept_by := 'unpublished';
        detail := 'the snapshot is not of this server''s past';
        RETURN;
    END IF;

    detail := outbox.relay_behind(published_lsn);
    IF detail IS NOT NULL THEN
        kept_by := 'relay';
        RETURN;
    END IF;

    EXECUTE format('SELECT NOT EXISTS (SELECT FROM ONLY %s)', table_name) INTO empty;
    IF empty THEN
        RETURN;
    END IF;

    SELECT format('%s has written into bucket %s and has not ended', coalesce('process ' || l.pid, 'a prepared transaction'),
                  bucket)
      INTO detail
      FROM pg_locks AS l
     WHERE l.locktype = 'relation' AND l.relation = table_name::regclass AND l.mode = 'RowExclusiveLock' AND l.granted
       AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
     LIMIT 1;
    IF detail IS NOT NULL THEN
        kept_by := 'open';
        RETURN;
    END IF;

    IF EXISTS (SELECT FROM outbox.quarantine AS q
                WHERE q.settled_at IS NULL AND q.row_values IS NULL AND q.event_id IS NULL) THEN
        kept_by := 'quarantine';
        detail := 'an entry of the quarantine is a reference to a row without the event''s id, so that any may be it';
        RETURN;
    END IF;
    referenced := ARRAY(SELECT lower(q.event_id) FROM outbox.quarantine AS q
                         WHERE q.settled_at IS NULL AND q.row_values IS NULL);

    hindrance := 'CASE WHEN NOT pg_visible_in_snapshot(e.writer, $1) THEN ''unpublished''
                       WHEN e.created_at > $2 THEN ''young''
                       WHEN cardinality($3) > 0 AND e.id::text = ANY ($3) THEN ''quarantine'' END';
    EXECUTE format('SELECT h FROM (SELECT %s AS h FROM ONLY %s AS e) AS looked WHERE h IS NOT NULL LIMIT 1',
                   hindrance, table_name)
       INTO kept_by USING published, clock_timestamp() - keep, referenced;

    IF kept_by IS NULL THEN
        IF current_setting('lock_timeout') = '0' THEN
            PERFORM set_config('lock_timeout', '500ms', true);
        END IF;
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', table_name);
        EXECUTE format('SELECT count(*), min(%s) FROM ONLY %s AS e', hindrance, table_name)
           INTO cleaned, kept_by USING published, clock_timestamp() - keep, referenced;
    END IF;
    IF kept_by IS NOT NULL THEN
        cleaned := 0;
        detail := format(CASE kept_by
            WHEN 'unpublished' THEN 'bucket %s holds a row that is not published'
            WHEN 'young' THEN 'bucket %s holds a row that is not old enough'
            ELSE 'bucket %s holds a row that an entry of the quarantine refers to' END, bucket);
        RETURN;
    END IF;

    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', table_name);
    detail := outbox.relay_behind(published_lsn);
    IF detail IS NOT NULL THEN
        cleaned := 0;
        kept_by := 'relay';
        RETURN;
    END IF;
    EXECUTE format('TRUNCATE TABLE ONLY %s', table_name);
END
$function$;

COMMENT ON FUNCTION outbox.clean_bucket(integer, pg_snapshot, pg_lsn, interval) IS
    'Empties a past bucket of outbox.events whose every row was written by a transaction that is visible in the snapshot, and answers how many rows there were; or answers why it stays. For relays.';

REVOKE EXECUTE ON FUNCTION
    outbox.relay_behind(pg_lsn),
    outbox.clean_bucket(integer, pg_snapshot, pg_lsn, interval)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    outbox.relay_behind(pg_lsn),
    outbox.clean_bucket(integer, pg_snapshot, pg_lsn, interval)
    TO outbox_relay;

CREATE OR REPLACE FUNCTION outbox.contract_version() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 3;
