-- The role a relay logs in as. It gets no password here; set one with psql's \password, which does not send
-- it in clear. The name travels in a setting because nothing else can be handed to a DO block safely.
SET outbox.relay_role = {{role_literal}};
DO $do$
DECLARE
    relay_role CONSTANT text := current_setting('outbox.relay_role');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = relay_role) THEN
        -- Where nobody but the service itself may give the attribute, being a member of a role of the service's
        -- stands in its place.
        IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolsuper) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', relay_role);
            EXECUTE format('GRANT rds_replication TO %I', relay_role);
        ELSE
            EXECUTE format('CREATE ROLE %I LOGIN REPLICATION', relay_role);
        END IF;
    ELSIF NOT EXISTS (
        SELECT FROM pg_catalog.pg_roles AS r
         WHERE r.rolname = relay_role AND r.rolcanlogin AND (r.rolreplication OR r.rolsuper OR EXISTS (
                   SELECT FROM pg_catalog.pg_roles AS s
                    WHERE s.rolname IN ('rds_replication', 'alloydbsuperuser')
                      AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER')))
    ) THEN
        RAISE NOTICE 'role % exists and is left as it is; a relay needs LOGIN and REPLICATION, or what the service offers in its place',
            relay_role;
    END IF;
END
$do$;
RESET outbox.relay_role;
GRANT outbox_relay TO {{role}};
