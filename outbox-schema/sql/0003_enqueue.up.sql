-- The function that inserts an event, for any language:
--
--   SELECT outbox.enqueue('order', 'o-1', 'OrderPlaced', '{"total": 12.50}');
--   SELECT outbox.enqueue('order', 'o-1', 'OrderPaid', $1::json, version => 2, headers => '{"tenant": "eu"}');
--
-- It runs with the caller's rights, in the caller's transaction. What is wrong with an argument is said by
-- outbox.check_event(), the CHECK of the table; only a missing one has to be looked for here, since NOT NULL
-- comes before it and prints the whole row.
--
-- The session setting outbox.traceparent (SET LOCAL outbox.traceparent = '00-...') spares a service from
-- carrying the trace context through its code.
CREATE FUNCTION outbox.enqueue(
    aggregatetype  text,
    aggregateid    text,
    type           text,
    payload        json,
    id             uuid    DEFAULT NULL,
    schema_version integer DEFAULT 1,
    version        bigint  DEFAULT NULL,
    partition_key  text    DEFAULT NULL,
    headers        jsonb   DEFAULT NULL,
    traceparent    text    DEFAULT NULL
) RETURNS uuid
    LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    event_id CONSTANT uuid := coalesce(id, outbox.uuid_v7());
    -- What was SET LOCAL in an earlier transaction of the session reads as the empty text.
    trace    CONSTANT text := coalesce(traceparent, nullif(current_setting('outbox.traceparent', true), ''));
    missing  text;
BEGIN
    IF num_nulls(aggregatetype, aggregateid, type, schema_version) > 0 THEN
        missing := CASE
            WHEN aggregatetype IS NULL THEN 'aggregatetype'
            WHEN aggregateid IS NULL THEN 'aggregateid'
            WHEN type IS NULL THEN 'type'
            ELSE 'schema_version'
        END;
        RAISE EXCEPTION 'outbox event: % must not be NULL', missing
            USING ERRCODE = 'invalid_parameter_value', SCHEMA = 'outbox', TABLE = 'events', COLUMN = missing;
    END IF;

    INSERT INTO outbox.events (
        id, aggregatetype, aggregateid, type, schema_version, version, partition_key, headers, traceparent, payload
    ) VALUES (
        event_id, aggregatetype, aggregateid, type, schema_version, version, partition_key, headers, trace, payload
    );
    RETURN event_id;
END
$function$;

COMMENT ON FUNCTION outbox.enqueue(text, text, text, json, uuid, integer, bigint, text, jsonb, text) IS
    'Inserts one event in the caller''s transaction and returns its id. Bad arguments are refused with SQLSTATE 22023 and a message that names the argument.';

REVOKE EXECUTE ON FUNCTION outbox.enqueue(text, text, text, json, uuid, integer, bigint, text, jsonb, text) FROM PUBLIC;
