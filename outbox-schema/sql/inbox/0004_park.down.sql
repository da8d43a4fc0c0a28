-- What is parked may be the only copy of its event: the tables go when nothing waits. (DELETE it first if it is meant to go.)
DO $do$
BEGIN
    IF EXISTS (SELECT FROM inbox.parked_event) THEN
        RAISE EXCEPTION 'inbox: events wait in inbox.parked_event that were not run yet';
    END IF;
END
$do$;

DROP FUNCTION inbox.settle_parked(text, uuid[], timestamptz[], text, uuid);
DROP FUNCTION inbox.append_parked(text, text, bytea, uuid[], timestamptz[], integer[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], integer, integer, bigint);
DROP FUNCTION inbox.claim_keys(text, uuid[], timestamptz[], text[], integer[], bigint[], text[], text[], bytea[], integer);
DROP FUNCTION inbox.marked(text, text[], bytea[]);
DROP FUNCTION inbox.order_key(bytea);
DROP TABLE inbox.parked_event;
DROP TABLE inbox.parked_key;
