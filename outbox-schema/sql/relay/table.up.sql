-- What a relay reads of a table that is not outbox.events. (Of that one it reads as a member of outbox_relay.)
GRANT USAGE ON SCHEMA {{schema}} TO {{role}};
GRANT SELECT ON {{table}} TO {{role}};
