-- Consumers read everything and change what the functions change. What only the functions call is not theirs, nor is
-- inbox.upkeep_at(), with which a consumer could make time pass.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA inbox FROM PUBLIC;

GRANT USAGE ON SCHEMA inbox TO outbox_consumer;
GRANT SELECT ON
    inbox.settlement, inbox.settlement_partition, inbox.store, inbox.scope, inbox.parked_key, inbox.parked_event,
    inbox.dead_letter, inbox.dead_letter_copy, inbox.dead_letters, inbox.audit
    TO outbox_consumer;
GRANT EXECUTE ON FUNCTION
    inbox.contract_version(),
    inbox.event_time(uuid, timestamptz),
    inbox.key_id(text),
    inbox.order_key(bytea),
    inbox.allowed(text, text, text),
    inbox.letter_state(text, text),
    inbox.retention_floor(interval, interval, interval, interval),
    inbox.declare_scope(text, interval, interval, interval, interval, interval, text),
    inbox.upkeep(interval, integer),
    inbox.claim_group(text, uuid[], timestamptz[], integer[], text[], integer[], bigint[], text[], text[]),
    inbox.settle_group(text, uuid[], text[], timestamptz[], text[]),
    inbox.claim(text, uuid, timestamptz, interval, integer, text, integer, bigint, text, text),
    inbox.settle(text, uuid, uuid, text, timestamptz, bytea, text),
    inbox.complete(text, uuid, uuid, bytea, timestamptz),
    inbox.renew(text, uuid, uuid, interval, timestamptz),
    inbox.marked(text, text[], bytea[]),
    inbox.claim_keys(text, uuid[], timestamptz[], text[], integer[], bigint[], text[], text[], bytea[], integer),
    inbox.park(text, text, bytea, timestamptz, text, uuid[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], timestamptz[], integer, integer, text, uuid, integer, integer, bigint),
    inbox.follow(text, text, bytea, uuid[], integer[], bigint[], timestamptz[], bytea[], bytea[], json[], timestamptz[], integer, integer, bigint),
    inbox.take_parked_key(text),
    inbox.resume(text, text, bytea, integer, interval),
    inbox.delay(text, text, bytea, timestamptz, text, integer, text, integer),
    inbox.unpark(text, text, bytea, bigint[]),
    inbox.lock_parked_key(text, text, bytea),
    inbox.remove_parked_key(text, text, bytea),
    inbox.hold_parked_key(text, text, bytea, text),
    inbox.release_parked_key(text, text, bytea, text),
    inbox.project_dead_letter(text, text, text, integer, bigint, timestamptz, text, text, text, text, timestamptz, integer, timestamptz, timestamptz, uuid, timestamptz, text, text, integer, bigint, bytea, integer),
    inbox.decide_letter(text, text, text, text),
    inbox.begin_replay(text, text, text),
    inbox.replay_parked(text, text, text, integer, bigint, timestamptz, bytea, bytea, json, bytea, integer, integer, bigint)
    TO outbox_consumer;
