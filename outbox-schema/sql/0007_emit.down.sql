DROP FUNCTION outbox.emit(text, text, text, json, uuid, integer, bigint, text, jsonb, text);

CREATE OR REPLACE FUNCTION outbox.contract_version() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 3;
