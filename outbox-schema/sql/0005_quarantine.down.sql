-- What is held here may be the only copy of its event: the table goes when nothing in it is open. (DELETE it first if
-- it is meant to go.) Schema and role go with the contract; where this ran alone, they stay.
DO $do$
BEGIN
    IF EXISTS (SELECT FROM outbox.quarantine WHERE settled_at IS NULL) THEN
        RAISE EXCEPTION 'outbox quarantine: events stand in outbox.quarantine that are neither published nor discarded';
    END IF;
END
$do$;

DROP FUNCTION outbox.prune_quarantine(interval);
DROP FUNCTION outbox.decide(text, integer, bigint, pg_lsn, bigint, text, text);
DROP TABLE outbox.quarantine;
DROP FUNCTION outbox.position_text(bigint, pg_lsn, bigint);

DO $do$
BEGIN
    IF to_regprocedure('outbox.contract_version()') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION outbox.contract_version() RETURNS integer
            LANGUAGE sql STABLE PARALLEL SAFE
            RETURN 1;
    END IF;
END
$do$;
