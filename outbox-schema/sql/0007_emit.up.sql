-- Events without a table: a service emits one into the log itself, in its own transaction.
--
--   SELECT outbox.emit('order', 'o-1', 'OrderPlaced', '{"total": 12.50}');
--
-- Nothing is stored but the log, so there is nothing to clean up, and nothing to publish from again: a relay whose
-- slot is lost can only name what is missing. Arguments, checks and the event that comes of them are those of
-- outbox.enqueue(). A relay reads such events with outbox.from = "messages"; one that reads the table passes them over.
--
-- The message is a JSON object of the columns that outbox.events publishes. Its bytes are UTF-8 whatever the
-- database's encoding is, since a slot brings a message's content as it stands. The payload is the last member, so that
-- the beginning of a message that is too large still says where it belongs; no space is put around it, so that
-- white space there is the producer's own. It is left out where it is SQL NULL: null would be a value.
--
-- The session setting outbox.message_prefix, or ALTER DATABASE ... SET outbox.message_prefix = '...', takes the place
-- of the prefix 'outbox.event'; relays have to name the same one (outbox.message_prefix in their configuration).
CREATE OR REPLACE FUNCTION outbox.emit(
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
    prefix   CONSTANT text := coalesce(nullif(current_setting('outbox.message_prefix', true), ''), 'outbox.event');
    missing  text;
    content  text;
BEGIN
    IF num_nulls(aggregatetype, aggregateid, type, schema_version) > 0 THEN
        missing := CASE
            WHEN aggregatetype IS NULL THEN 'aggregatetype'
            WHEN aggregateid IS NULL THEN 'aggregateid'
            WHEN type IS NULL THEN 'type'
            ELSE 'schema_version'
        END;
        RAISE EXCEPTION 'outbox event: % must not be NULL', missing
            USING ERRCODE = 'invalid_parameter_value', SCHEMA = 'outbox', COLUMN = missing;
    ELSIF prefix = 'outbox' OR octet_length(prefix) > 63 THEN
        RAISE EXCEPTION 'outbox event: outbox.message_prefix must be at most 63 bytes and not outbox, which is that of commands'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- True, or an error that names the argument.
    PERFORM outbox.check_event(
        aggregatetype, aggregateid, type, schema_version, version, partition_key, headers, trace, payload);

    content := json_build_object(
        'id', event_id,
        'aggregatetype', aggregatetype,
        'aggregateid', aggregateid,
        'type', type,
        'schema_version', schema_version,
        'version', version,
        'partition_key', partition_key,
        'headers', headers,
        'traceparent', trace,
        'created_at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'
    )::text;
    content := CASE WHEN payload IS NULL THEN content
                    ELSE left(content, -1) || ', "payload":' || payload::text || '}' END;
    PERFORM pg_logical_emit_message(true, prefix, convert_to(content, 'UTF8'));
    RETURN event_id;
END
$function$;

COMMENT ON FUNCTION outbox.emit(text, text, text, json, uuid, integer, bigint, text, jsonb, text) IS
    'Emits one event into the log in the caller''s transaction, without a table, and returns its id. For relays with outbox.from = "messages". Bad arguments are refused with SQLSTATE 22023 and a message that names the argument.';

REVOKE EXECUTE ON FUNCTION outbox.emit(text, text, text, json, uuid, integer, bigint, text, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, json, uuid, integer, bigint, text, jsonb, text) TO outbox_producer;

CREATE OR REPLACE FUNCTION outbox.contract_version() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 4;
