-- The role a relay logs in as. It gets no password here; set one with psql's \password, which does not send
-- it in clear. The name travels in a setting because nothing else can be handed to a DO block safely.
SET outbox.relay_role = {{role_literal}};
DO $do$
DECLARE
    relay_role CONSTANT text := current_setting('outbox.relay_role');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = relay_role) THEN
        EXECUTE format('CREATE ROLE %I LOGIN REPLICATION', relay_role);
    ELSIF NOT EXISTS (
        SELECT FROM pg_catalog.pg_roles WHERE rolname = relay_role AND rolcanlogin AND (rolreplication OR rolsuper)
    ) THEN
        RAISE NOTICE 'role % exists and is left as it is; a relay needs LOGIN and REPLICATION, or what the service offers in its place',
            relay_role;
    END IF;
END
$do$;
RESET outbox.relay_role;
GRANT outbox_relay TO {{role}};
