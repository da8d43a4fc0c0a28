-- Dead letters as decisions: the evidence stands on Kafka, what became of it here, where it outlives the topic.
--
-- A row per scope and event, however many copies came (a consumer that died between its write and its settlement
-- leaves two). A letter counts while the inbox says that the event is dead; a frozen owner may have sent one late,
-- and then it is superseded. That is worked out where letters are read, so that it is true whenever they are read.

CREATE TABLE inbox.dead_letter (
    scope            text        COLLATE "C" NOT NULL CHECK (scope <> ''),
    letter           text        COLLATE "C" NOT NULL CHECK (octet_length(letter) BETWEEN 1 AND 400),
    id               uuid,
    event_time       timestamptz,
    event_type       text,
    source_topic     text        NOT NULL,
    source_partition integer,
    source_offset    bigint,
    key              bytea,
    handler          text,
    cause            text        NOT NULL CHECK (cause <> ''),
    error            text        NOT NULL CHECK (error <> ''),
    attempts         integer     NOT NULL CHECK (attempts >= 0),
    first_failed_at  timestamptz NOT NULL,
    last_failed_at   timestamptz NOT NULL CHECK (last_failed_at >= first_failed_at),
    owner            text        NOT NULL CHECK (owner <> ''),
    deadline         timestamptz NOT NULL,
    state            text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'replaying', 'discarded', 'restored')),
    replay           integer     NOT NULL DEFAULT 0 CHECK (replay >= 0),
    note             text,
    decided_at       timestamptz,
    decided_by       text,

    PRIMARY KEY (scope, letter),
    CONSTRAINT dead_letter_event CHECK ((id IS NULL) = (event_time IS NULL)),
    CONSTRAINT dead_letter_decided CHECK (
        num_nulls(decided_at, decided_by) IN (0, 2) AND (state = 'open' OR decided_at IS NOT NULL)),
    CONSTRAINT dead_letter_replay CHECK (state <> 'replaying' OR replay > 0)
);

CREATE INDEX dead_letter_open ON inbox.dead_letter (scope, deadline) WHERE state IN ('open', 'restored');

COMMENT ON TABLE inbox.dead_letter IS
    'A row per scope and event in the dead-letter topics, with what was decided on it. Read it through the view inbox.dead_letters.';
COMMENT ON COLUMN inbox.dead_letter.scope IS
    'The consumer whose letter it is.';
COMMENT ON COLUMN inbox.dead_letter.letter IS
    'The event''s id as text; topic/partition/offset of the source record where it has none, or could not be read.';
COMMENT ON COLUMN inbox.dead_letter.id IS
    'The id under which the event is settled; NULL where nothing was settled (undecodable, or a store without rows).';
COMMENT ON COLUMN inbox.dead_letter.event_time IS
    'Its inbox.event_time().';
COMMENT ON COLUMN inbox.dead_letter.event_type IS
    'The event''s type, if it could be read.';
COMMENT ON COLUMN inbox.dead_letter.source_topic IS
    'The topic that the record came from.';
COMMENT ON COLUMN inbox.dead_letter.source_partition IS
    'Its partition.';
COMMENT ON COLUMN inbox.dead_letter.source_offset IS
    'Its offset.';
COMMENT ON COLUMN inbox.dead_letter.key IS
    'Key of the record.';
COMMENT ON COLUMN inbox.dead_letter.handler IS
    'The handler that failed.';
COMMENT ON COLUMN inbox.dead_letter.cause IS
    'Class of the cause; what letters are grouped by.';
COMMENT ON COLUMN inbox.dead_letter.error IS
    'What the last attempt said, at most 2,000 characters.';
COMMENT ON COLUMN inbox.dead_letter.attempts IS
    'How often it was tried, over all copies.';
COMMENT ON COLUMN inbox.dead_letter.first_failed_at IS
    'First failure of all copies.';
COMMENT ON COLUMN inbox.dead_letter.last_failed_at IS
    'Last failure of all copies.';
COMMENT ON COLUMN inbox.dead_letter.owner IS
    'The team that has to decide.';
COMMENT ON COLUMN inbox.dead_letter.deadline IS
    'By when.';
COMMENT ON COLUMN inbox.dead_letter.state IS
    'What was decided: open, replaying, discarded, restored (discarded, and taken back). The view adds replayed and superseded.';
COMMENT ON COLUMN inbox.dead_letter.replay IS
    'Number of its last replay, 0 before the first.';
COMMENT ON COLUMN inbox.dead_letter.note IS
    'The reason of the last decision.';
COMMENT ON COLUMN inbox.dead_letter.decided_at IS
    'When that was.';
COMMENT ON COLUMN inbox.dead_letter.decided_by IS
    'The role that decided.';

CREATE TABLE inbox.dead_letter_copy (
    topic         text        COLLATE "C" NOT NULL,
    partition     integer     NOT NULL,
    record_offset bigint      NOT NULL,
    record_time   timestamptz NOT NULL,
    scope         text        COLLATE "C" NOT NULL,
    letter        text        COLLATE "C" NOT NULL,
    replay        integer     NOT NULL DEFAULT 0,
    projected_at  timestamptz NOT NULL DEFAULT clock_timestamp(),

    PRIMARY KEY (topic, partition, record_offset),
    FOREIGN KEY (scope, letter) REFERENCES inbox.dead_letter
);

CREATE INDEX dead_letter_copy_of ON inbox.dead_letter_copy (scope, letter);

COMMENT ON TABLE inbox.dead_letter_copy IS
    'The records in dead-letter topics that are copies of a letter.';
COMMENT ON COLUMN inbox.dead_letter_copy.topic IS
    'The dead-letter topic.';
COMMENT ON COLUMN inbox.dead_letter_copy.partition IS
    'Partition of the copy.';
COMMENT ON COLUMN inbox.dead_letter_copy.record_offset IS
    'Offset of the copy.';
COMMENT ON COLUMN inbox.dead_letter_copy.record_time IS
    'Timestamp of the copy.';
COMMENT ON COLUMN inbox.dead_letter_copy.scope IS
    'With letter: whose copy it is.';
COMMENT ON COLUMN inbox.dead_letter_copy.letter IS
    'The letter.';
COMMENT ON COLUMN inbox.dead_letter_copy.replay IS
    'Number of the replay that failed with it, 0 for none.';
COMMENT ON COLUMN inbox.dead_letter_copy.projected_at IS
    'When it was read from the topic.';

CREATE TABLE inbox.audit (
    number  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    who     text        NOT NULL DEFAULT session_user,
    action  text        NOT NULL CHECK (action <> ''),
    scope   text        NOT NULL,
    letter  text,
    topic   text,
    key     bytea,
    reason  text        NOT NULL CHECK (reason <> '')
);

CREATE INDEX audit_letter ON inbox.audit (scope, letter);

COMMENT ON TABLE inbox.audit IS
    'Who decided what, when and why. Written by the functions of the schema, in the transaction of the decision; never changed.';
COMMENT ON COLUMN inbox.audit.number IS
    'Order of the entries.';
COMMENT ON COLUMN inbox.audit.at IS
    'When.';
COMMENT ON COLUMN inbox.audit.who IS
    'The role that logged in.';
COMMENT ON COLUMN inbox.audit.action IS
    'discard, restore, replay, hold, release, floor, reset.';
COMMENT ON COLUMN inbox.audit.scope IS
    'The consumer it is about.';
COMMENT ON COLUMN inbox.audit.letter IS
    'The dead letter it is about.';
COMMENT ON COLUMN inbox.audit.topic IS
    'With key: the parked key it is about.';
COMMENT ON COLUMN inbox.audit.key IS
    'The parked key.';
COMMENT ON COLUMN inbox.audit.reason IS
    'Why, in the words of whoever decided.';

-- stands is the state of the event's settlement; NULL where there is none, which leaves the letter as decided.
CREATE FUNCTION inbox.letter_state(decided text, stands text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN decided = 'replaying' AND stands = 'replayed' THEN 'replayed'
        WHEN decided = 'replaying' AND stands IN ('dead', 'rejected') THEN 'open'
        WHEN stands IN ('done', 'replayed', 'dropped') THEN 'superseded'
        ELSE decided
    END;

COMMENT ON FUNCTION inbox.letter_state(text, text) IS
    'State of a dead letter by what was decided on it and by what its settlement says now.';

CREATE VIEW inbox.dead_letters AS
    SELECT d.scope, d.letter, inbox.letter_state(d.state, s.state) AS state, d.owner, d.deadline, d.cause, d.error,
           d.attempts, d.first_failed_at, d.last_failed_at, d.event_type, d.handler, d.source_topic, d.source_partition,
           d.source_offset, d.key, d.id, d.event_time, d.replay, d.note, d.decided_at, d.decided_by
      FROM inbox.dead_letter AS d
      LEFT JOIN inbox.settlement AS s ON s.id = d.id AND s.scope = d.scope AND s.event_time = d.event_time;

COMMENT ON VIEW inbox.dead_letters IS
    'The dead letters with the state they are in now: open, replaying, replayed, discarded, restored, superseded.';

-- Takes up one copy. The same copy again changes nothing, so a projection may begin anew at any offset.
CREATE FUNCTION inbox.project_dead_letter(
    scope            text,
    letter           text,
    copy_topic       text,
    copy_partition   integer,
    copy_offset      bigint,
    copy_time        timestamptz,
    source_topic     text,
    cause            text,
    error            text,
    owner            text,
    deadline         timestamptz,
    attempts         integer     DEFAULT 1,
    first_failed_at  timestamptz DEFAULT NULL,
    last_failed_at   timestamptz DEFAULT NULL,
    id               uuid        DEFAULT NULL,
    created          timestamptz DEFAULT NULL,
    event_type       text        DEFAULT NULL,
    handler          text        DEFAULT NULL,
    source_partition integer     DEFAULT NULL,
    source_offset    bigint      DEFAULT NULL,
    key              bytea       DEFAULT NULL,
    replay           integer     DEFAULT 0
) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    ended  CONSTANT timestamptz := coalesce(project_dead_letter.last_failed_at, copy_time);
    began  CONSTANT timestamptz := least(coalesce(project_dead_letter.first_failed_at, ended), ended);
    said   CONSTANT text := left(coalesce(nullif(project_dead_letter.error, ''), 'no reason was given'), 2000);
    number CONSTANT integer := coalesce(project_dead_letter.replay, 0);
BEGIN
    -- A letter before its copy, for the foreign key; two who project the same copy wait here for each other.
    INSERT INTO inbox.dead_letter AS d (scope, letter, id, event_time, event_type, source_topic, source_partition,
        source_offset, key, handler, cause, error, attempts, first_failed_at, last_failed_at, owner, deadline)
    VALUES (project_dead_letter.scope, project_dead_letter.letter, project_dead_letter.id,
        CASE WHEN project_dead_letter.id IS NOT NULL THEN
            inbox.event_time(project_dead_letter.id, project_dead_letter.created) END,
        project_dead_letter.event_type, project_dead_letter.source_topic, project_dead_letter.source_partition,
        project_dead_letter.source_offset, project_dead_letter.key, project_dead_letter.handler,
        project_dead_letter.cause, said, project_dead_letter.attempts, began, ended, project_dead_letter.owner,
        project_dead_letter.deadline)
        ON CONFLICT DO NOTHING;
    INSERT INTO inbox.dead_letter_copy (topic, partition, record_offset, record_time, scope, letter, replay)
    VALUES (copy_topic, copy_partition, copy_offset, copy_time, project_dead_letter.scope, project_dead_letter.letter, number)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- A replay that failed makes the letter open again; the late copy of an older one does not.
    UPDATE inbox.dead_letter AS d
       SET attempts = greatest(d.attempts, project_dead_letter.attempts),
           first_failed_at = least(d.first_failed_at, began),
           last_failed_at = greatest(d.last_failed_at, ended),
           cause = CASE WHEN ended >= d.last_failed_at THEN project_dead_letter.cause ELSE d.cause END,
           error = CASE WHEN ended >= d.last_failed_at THEN said ELSE d.error END,
           state = CASE WHEN d.state = 'replaying' AND number >= d.replay THEN 'open' ELSE d.state END,
           deadline = CASE WHEN d.state = 'replaying' AND number >= d.replay THEN project_dead_letter.deadline ELSE d.deadline END
     WHERE d.scope = project_dead_letter.scope AND d.letter = project_dead_letter.letter;
    RETURN true;
END
$function$;

COMMENT ON FUNCTION inbox.project_dead_letter(text, text, text, integer, bigint, timestamptz, text, text, text, text, timestamptz, integer, timestamptz, timestamptz, uuid, timestamptz, text, text, integer, bigint, bytea, integer) IS
    'Takes up one record of a dead-letter topic: a row per event, its copies beneath. False for a copy that is known.';
