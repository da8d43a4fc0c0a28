-- Without the settlements every copy that still comes runs again. What upkeep made is a partition, and goes with the table.
DROP FUNCTION inbox.allowed(text, text, text);
DROP FUNCTION inbox.key_id(text);
DROP TABLE inbox.settlement;
DROP FUNCTION inbox.settlement_stands(text, integer, integer, uuid, timestamptz, timestamptz, text, bytea);
DROP TABLE inbox.settlement_partition;
DROP TABLE inbox.store;
DROP FUNCTION inbox.event_time(uuid, timestamptz);
