DROP FUNCTION inbox.accept_reset(text, text, text, text, integer);
DROP FUNCTION inbox.reach(text, text, text[], integer[], bigint[]);
DROP TABLE inbox.reached;
