-- What a relay with cleanup.mode = "delete" removes: rows of a table that is not outbox.events, once they are published.
GRANT DELETE ON {{table}} TO {{role}};
