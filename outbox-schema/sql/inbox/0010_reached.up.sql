-- How far the groups of a scope have come, so that offsets which somebody moved back are noticed.
--
-- Kafka keeps one committed offset of a partition and forgets what it was before: a group that was reset by accident, and
-- one whose offsets have expired, look like one that has not come further yet. So consumers write down here, every few
-- seconds, what Kafka has acknowledged to them. That is never ahead of the committed offset; one that is behind was moved.
CREATE TABLE inbox.reached (
    scope          text        COLLATE "C" NOT NULL CHECK (scope <> ''),
    consumer_group text        COLLATE "C" NOT NULL CHECK (consumer_group <> ''),
    topic          text        COLLATE "C" NOT NULL CHECK (topic <> ''),
    partition      integer     NOT NULL CHECK (partition >= 0),
    record_offset  bigint      NOT NULL CHECK (record_offset >= 0),
    reached_at     timestamptz NOT NULL,

    PRIMARY KEY (scope, consumer_group, topic, partition)
);

COMMENT ON TABLE inbox.reached IS
    'The highest offset that Kafka has acknowledged as committed, for each partition of each group of a scope.';
COMMENT ON COLUMN inbox.reached.scope IS
    'The consumer''s name.';
COMMENT ON COLUMN inbox.reached.consumer_group IS
    'The Kafka group: each of a scope reads for itself.';
COMMENT ON COLUMN inbox.reached.topic IS
    'The topic.';
COMMENT ON COLUMN inbox.reached.partition IS
    'The partition.';
COMMENT ON COLUMN inbox.reached.record_offset IS
    'Every record below it is settled in this scope.';
COMMENT ON COLUMN inbox.reached.reached_at IS
    'When that was written.';

-- Answers with what stands then. Rows are written in one order, so that two instances cannot deadlock on them.
CREATE FUNCTION inbox.reach(
    scope text, consumer_group text, topics text[], partitions integer[], record_offsets bigint[]
) RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    INSERT INTO inbox.reached AS r (scope, consumer_group, topic, partition, record_offset, reached_at)
    SELECT reach.scope, reach.consumer_group, u.topic, u.partition, max(u.record_offset), clock_timestamp()
      FROM unnest(reach.topics, reach.partitions, reach.record_offsets) AS u (topic, partition, record_offset)
     GROUP BY u.topic, u.partition
     ORDER BY u.topic COLLATE "C", u.partition
        ON CONFLICT (scope, consumer_group, topic, partition) DO UPDATE
       SET record_offset = excluded.record_offset, reached_at = excluded.reached_at
     WHERE r.record_offset < excluded.record_offset;
    RETURN (
        SELECT array_agg(r.record_offset ORDER BY u.place)
          FROM unnest(reach.topics, reach.partitions) WITH ORDINALITY AS u (topic, partition, place)
          JOIN inbox.reached AS r
            ON r.scope = reach.scope AND r.consumer_group = reach.consumer_group
           AND r.topic = u.topic AND r.partition = u.partition);
END
$function$;

COMMENT ON FUNCTION inbox.reach(text, text, text[], integer[], bigint[]) IS
    'Writes down what Kafka has acknowledged as committed, where it is more than before; answers with what stands, for each partition in the order of the arguments.';

-- The word that a group may go on from where it stands now: what was reached is forgotten.
CREATE FUNCTION inbox.accept_reset(
    scope text, consumer_group text, reason text, topic text DEFAULT NULL, partition integer DEFAULT NULL
) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    forgotten integer;
    said      text;
BEGIN
    IF coalesce(accept_reset.reason, '') = '' THEN
        RAISE EXCEPTION 'inbox: accept_reset() needs a reason' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    WITH gone AS (
        DELETE FROM inbox.reached AS r
         WHERE r.scope = accept_reset.scope AND r.consumer_group = accept_reset.consumer_group
           AND r.topic = coalesce(accept_reset.topic, r.topic)
           AND r.partition = coalesce(accept_reset.partition, r.partition)
        RETURNING r.topic, r.partition, r.record_offset)
    SELECT count(*), string_agg(format('%s/%s at %s', g.topic, g.partition, g.record_offset), ', ' ORDER BY g.topic, g.partition)
      INTO forgotten, said
      FROM gone AS g;
    IF forgotten = 0 THEN
        RAISE EXCEPTION 'inbox: of scope % and group % nothing is known to have been reached',
                accept_reset.scope, accept_reset.consumer_group
            USING ERRCODE = 'IB002';
    END IF;
    INSERT INTO inbox.audit (action, scope, reason)
    VALUES ('reset', accept_reset.scope,
            format('%s (group %s, had reached %s)', accept_reset.reason, accept_reset.consumer_group, left(said, 2000)));
    RETURN forgotten;
END
$function$;

COMMENT ON FUNCTION inbox.accept_reset(text, text, text, text, integer) IS
    'Lets a group whose offsets were moved back read on at full speed, in all its partitions or in some: what it had reached is forgotten. Answers how many partitions that were.';

REVOKE EXECUTE ON FUNCTION
    inbox.reach(text, text, text[], integer[], bigint[]),
    inbox.accept_reset(text, text, text, text, integer)
    FROM PUBLIC;
GRANT SELECT ON inbox.reached TO outbox_consumer;
GRANT EXECUTE ON FUNCTION
    inbox.reach(text, text, text[], integer[], bigint[]),
    inbox.accept_reset(text, text, text, text, integer)
    TO outbox_consumer;
