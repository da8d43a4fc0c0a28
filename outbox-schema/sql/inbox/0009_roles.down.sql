-- What up granted is taken back; other grants that were made to the role stay, and keep it.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA inbox FROM outbox_consumer;
REVOKE ALL ON ALL TABLES IN SCHEMA inbox FROM outbox_consumer;
REVOKE ALL ON SCHEMA inbox FROM outbox_consumer;
