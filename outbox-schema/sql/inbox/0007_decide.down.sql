DROP FUNCTION inbox.release_parked_key(text, text, bytea, text);
DROP FUNCTION inbox.hold_parked_key(text, text, bytea, text);
DROP FUNCTION inbox.replay_parked(text, text, text, integer, bigint, timestamptz, bytea, bytea, json, bytea, integer, integer, bigint);
DROP FUNCTION inbox.begin_replay(text, text, text);
DROP FUNCTION inbox.decide_letter(text, text, text, text);
DROP FUNCTION inbox.require_letter(text, text, text, text[]);
