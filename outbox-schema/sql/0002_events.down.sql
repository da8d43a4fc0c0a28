-- The events go with the table, published or not; its partitions and its sequence go with it too.
DROP TABLE outbox.events;
DROP FUNCTION outbox.check_event(text, text, text, integer, bigint, text, jsonb, text, json);
DROP FUNCTION outbox.headers_mistake(jsonb);
DROP FUNCTION outbox.uuid_v7();
