-- The two group roles. Log-in roles become members:
--
--   GRANT outbox_producer TO checkout_service;
--
-- Roles belong to the whole cluster, so another database may have made them already. Two installations at
-- once may also both find them missing; the second then meets the first one's role.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_producer') THEN
        CREATE ROLE outbox_producer NOLOGIN;
        COMMENT ON ROLE outbox_producer IS 'May insert events into outbox.events; for services.';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$do$;

DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        CREATE ROLE outbox_relay NOLOGIN;
        COMMENT ON ROLE outbox_relay IS 'May read outbox.events; for relays.';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$do$;

-- Producers write events and cannot read them. seq, created_at, writer and bucket are left out: their
-- defaults are facts, and a wrong writer would keep an event from ever being refilled or cleaned up.
GRANT USAGE ON SCHEMA outbox TO outbox_producer;
GRANT INSERT (id, aggregatetype, aggregateid, type, schema_version, version, partition_key, headers, traceparent, payload)
    ON outbox.events TO outbox_producer;
-- Defaults and the CHECK are evaluated with the rights of whoever inserts.
GRANT USAGE ON SEQUENCE outbox.events_seq TO outbox_producer;
GRANT EXECUTE ON FUNCTION
    outbox.uuid_v7(),
    outbox.check_event(text, text, text, integer, bigint, text, jsonb, text, json),
    outbox.headers_mistake(jsonb)
    TO outbox_producer;
GRANT EXECUTE ON FUNCTION outbox.enqueue(text, text, text, json, uuid, integer, bigint, text, jsonb, text) TO outbox_producer;
GRANT EXECUTE ON FUNCTION outbox.contract_version() TO outbox_producer;

-- Relays read: the stream needs no right on the table, publishing from the table does, and looking at one
-- bucket needs it on the partition.
GRANT USAGE ON SCHEMA outbox TO outbox_relay;
GRANT SELECT ON outbox.events,
    outbox.events_0, outbox.events_1, outbox.events_2, outbox.events_3,
    outbox.events_4, outbox.events_5, outbox.events_6, outbox.events_7 TO outbox_relay;
GRANT EXECUTE ON FUNCTION outbox.contract_version() TO outbox_relay;
