-- The schema of a consumer's inbox, the version of its contract, and its role.
--
-- It stands in the database that the handlers write to, which usually is another than the outbox's; both may share
-- one. Run the numbered files in order and in one transaction, as the role that is to own the inbox: whoever can call
-- inbox.contract_version() then knows that everything beside it is there too.
--
-- The owner's functions are the only way to change the tables (SECURITY DEFINER): consumers read and call. A table
-- that consumers could write would be as honest as the oldest of their instances; this way a frozen one with other
-- luck or older code cannot decide an event again. Such a function needs a search_path of its own, which costs 10 to 15
-- microseconds a call: 0.3 an event in a group of fifty.
CREATE SCHEMA inbox;

COMMENT ON SCHEMA inbox IS
    'Transactional inbox: what a consumer has settled, what waits parked, and what became of dead letters.';

CREATE FUNCTION inbox.contract_version() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 1;

COMMENT ON FUNCTION inbox.contract_version() IS
    'Version of the contract between consumers and their inbox. A consumer refuses a version it does not know.';

-- Roles belong to the whole cluster, so another database may have made it already. Two installations at once may
-- also both find it missing; the second then meets the first one's role.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_consumer') THEN
        CREATE ROLE outbox_consumer NOLOGIN;
        COMMENT ON ROLE outbox_consumer IS 'May read the inbox and call its functions; for consumers and their operators.';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$do$;
