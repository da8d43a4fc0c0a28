-- Refuses new events while the server keeps more log for a relay's slot than its disk can spare. Not part of the
-- contract: it stands in the way of every service's commit, so it is the owner's to choose. Run it as the owner of
-- outbox.events, then say how much may be kept:
--
--   SELECT outbox.refuse_events_above('50GB');
--   SELECT outbox.refuse_events_above(NULL);     -- no more
--
-- What it is for: services that would rather answer "try again later" than have the database stop for everybody when
-- pg_wal has filled the disk, and whose slot must not be given up (max_slot_wal_keep_size = -1, or a larger limit). It
-- refuses the INSERT, and so the transaction that the event is part of, with SQLSTATE 53400. Tables without events go on
-- writing log; it slows a disk down that fills through them, and does not stop it. What a slot has lost is not kept, so
-- a slot that is given up refuses nothing.
--
-- It refuses rows of outbox.events alone: outbox.emit() writes no row, and goes on.
--
-- What it costs: one look at the slots for each INSERT statement, not for each row.

CREATE OR REPLACE FUNCTION outbox.refuse_while_log_is_kept() RETURNS trigger
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    most CONSTANT bigint := TG_ARGV[0]::bigint;
    slot name;
    kept numeric;
BEGIN
    SELECT s.slot_name, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn)
      INTO slot, kept
      FROM pg_replication_slots AS s
     WHERE s.database = current_database() AND starts_with(s.slot_name::text, 'outbox_') AND s.wal_status <> 'lost'
     ORDER BY s.restart_lsn
     LIMIT 1;
    IF kept > most THEN
        RAISE EXCEPTION 'outbox event refused: the server keeps % of log for slot %, more than %',
                pg_size_pretty(kept), slot, pg_size_pretty(most)
            USING ERRCODE = 'configuration_limit_exceeded',
                  HINT = 'The relay is down or behind. Events are taken again once it has caught up; SELECT outbox.refuse_events_above(NULL) takes them now.';
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION outbox.refuse_while_log_is_kept() IS
    'Trigger of outbox.refuse_events_above(): refuses with SQLSTATE 53400.';

CREATE OR REPLACE FUNCTION outbox.refuse_events_above(kept text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    -- Services wait behind this for as long as it waits for the table.
    SET lock_timeout = '2s'
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    most CONSTANT bigint := pg_size_bytes(kept);
BEGIN
    IF most < 2 * pg_size_bytes(current_setting('wal_segment_size')) THEN
        RAISE EXCEPTION 'outbox: log is kept in whole segments of %; refuse events above twice that or more',
                current_setting('wal_segment_size')
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF most IS NULL THEN
        DROP TRIGGER IF EXISTS refuse_events_above ON outbox.events;
    ELSE
        EXECUTE format(
            'CREATE OR REPLACE TRIGGER refuse_events_above BEFORE INSERT ON outbox.events '
            'FOR EACH STATEMENT EXECUTE FUNCTION outbox.refuse_while_log_is_kept(%L)', most);
    END IF;
END
$function$;

COMMENT ON FUNCTION outbox.refuse_events_above(text) IS
    'Refuses new events while the server keeps more log than this for a slot outbox_<relay>; NULL refuses none. For the owner of outbox.events.';

REVOKE EXECUTE ON FUNCTION outbox.refuse_while_log_is_kept(), outbox.refuse_events_above(text) FROM PUBLIC;
