-- The schema of the outbox, and the version of its contract.
--
-- Run the numbered files in order and in one transaction, as the role that is to own the outbox:
-- whoever can see outbox.contract_version() then knows that everything beside it is there too.

-- A relay on a table of another shape may have made the schema for its quarantine. Any other one is in the way.
DO $do$
BEGIN
    IF to_regclass('outbox.quarantine') IS NULL THEN
        CREATE SCHEMA outbox;
    END IF;
END
$do$;

COMMENT ON SCHEMA outbox IS
    'Transactional outbox: rows written here in a service''s own transaction are published to Kafka by a relay.';

-- A standard SQL body (RETURN ...) is parsed when the function is made: no search_path can change what
-- it means, and the planner inlines it.
CREATE FUNCTION outbox.contract_version() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 1;

COMMENT ON FUNCTION outbox.contract_version() IS
    'Version of the contract between services, relay and consumers. A relay refuses a version it does not know.';

REVOKE EXECUTE ON FUNCTION outbox.contract_version() FROM PUBLIC;
