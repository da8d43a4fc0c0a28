-- What up granted is taken back; other grants that were made to the roles stay, and keep the role.
REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM outbox_producer, outbox_relay;
REVOKE ALL (id, aggregatetype, aggregateid, type, schema_version, version, partition_key, headers, traceparent, payload)
    ON outbox.events FROM outbox_producer;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA outbox FROM outbox_producer, outbox_relay;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA outbox FROM outbox_producer, outbox_relay;
REVOKE ALL ON SCHEMA outbox FROM outbox_producer, outbox_relay;

-- A role goes when nobody is a member and no database grants it anything. Whoever made a role is its member
-- by that alone from PostgreSQL 16 on, and does not count.
DO $do$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['outbox_producer', 'outbox_relay'] LOOP
        BEGIN
            IF EXISTS (
                SELECT FROM pg_catalog.pg_auth_members AS m
                JOIN pg_catalog.pg_roles AS r ON r.oid = m.roleid
                WHERE r.rolname = role_name AND m.member <> current_user::regrole
            ) THEN
                RAISE NOTICE 'role % is kept: it has members', role_name;
            ELSE
                EXECUTE format('DROP ROLE IF EXISTS %I', role_name);
            END IF;
        EXCEPTION
            WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
                RAISE NOTICE 'role % is kept: %', role_name, SQLERRM;
        END;
    END LOOP;
END
$do$;
