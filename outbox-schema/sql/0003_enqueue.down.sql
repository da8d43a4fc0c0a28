DROP FUNCTION outbox.enqueue(text, text, text, json, uuid, integer, bigint, text, jsonb, text);
