DROP FUNCTION inbox.renew(text, uuid, uuid, interval, timestamptz);
DROP FUNCTION inbox.complete(text, uuid, uuid, bytea, timestamptz);
DROP FUNCTION inbox.settle(text, uuid, uuid, text, timestamptz, bytea, text);
DROP FUNCTION inbox.claim(text, uuid, timestamptz, interval, integer, text, integer, bigint, text, text);
DROP FUNCTION inbox.settle_group(text, uuid[], text[], timestamptz[], text[]);
DROP FUNCTION inbox.pass_group(text, uuid[], timestamptz[], integer[], timestamptz);
DROP FUNCTION inbox.passes(text, timestamptz, integer, integer, timestamptz);
DROP FUNCTION inbox.claim_group(text, uuid[], timestamptz[], integer[], text[], integer[], bigint[], text[], text[]);
DROP FUNCTION inbox.require_read_committed();
