-- The decisions go with the tables; the letters themselves are on Kafka.
DROP FUNCTION inbox.project_dead_letter(text, text, text, integer, bigint, timestamptz, text, text, text, text, timestamptz, integer, timestamptz, timestamptz, uuid, timestamptz, text, text, integer, bigint, bytea, integer);
DROP VIEW inbox.dead_letters;
DROP FUNCTION inbox.letter_state(text, text);
DROP TABLE inbox.audit;
DROP TABLE inbox.dead_letter_copy;
DROP TABLE inbox.dead_letter;
