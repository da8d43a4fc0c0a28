-- Takes refuse-events.up.sql back; also before the contract itself is taken back, whose schema has to be empty.
DROP TRIGGER IF EXISTS refuse_events_above ON outbox.events;
DROP FUNCTION outbox.refuse_events_above(text);
DROP FUNCTION outbox.refuse_while_log_is_kept();
