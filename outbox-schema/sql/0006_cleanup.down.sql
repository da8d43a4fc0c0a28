DROP FUNCTION outbox.clean_bucket(integer, pg_snapshot, pg_lsn, interval);
DROP FUNCTION outbox.relay_behind(pg_lsn);

CREATE OR REPLACE FUNCTION outbox.contract_version() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 2;
