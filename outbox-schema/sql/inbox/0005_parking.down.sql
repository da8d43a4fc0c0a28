DROP FUNCTION inbox.remove_parked_key(text, text, bytea);
DROP FUNCTION inbox.lock_parked_key(text, text, bytea);
DROP FUNCTION inbox.unpark(text, text, bytea, bigint[]);
DROP FUNCTION inbox.delay(text, text, bytea, timestamptz, text, integer, text, integer);
DROP FUNCTION inbox.resume(text, text, bytea, integer, interval);
DROP FUNCTION inbox.take_parked_key(text);
DROP FUNCTION inbox.try_parked_lock(text, text, bytea);
DROP FUNCTION inbox.follow(text, text, bytea, uuid[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], timestamptz[], integer, integer, bigint);
DROP FUNCTION inbox.park(text, text, bytea, timestamptz, text, uuid[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], timestamptz[], integer, integer, text, uuid, integer, integer, bigint);
