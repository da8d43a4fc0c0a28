DROP FUNCTION inbox.upkeep(interval, integer);
DROP FUNCTION inbox.upkeep_at(timestamptz, interval, integer);
DROP FUNCTION inbox.prune_untimed(timestamptz, integer);
DROP FUNCTION inbox.drop_partitions(timestamptz);
DROP FUNCTION inbox.make_partitions(timestamptz);
DROP FUNCTION inbox.declare_scope(text, interval, interval, interval, interval, interval, text);
DROP FUNCTION inbox.retention_floor(interval, interval, interval, interval);
DROP TABLE inbox.scope;
