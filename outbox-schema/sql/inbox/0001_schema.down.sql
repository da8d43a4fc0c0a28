-- The role goes when nobody is a member and no database grants it anything. Whoever made a role is its member by that
-- alone from PostgreSQL 16 on, and does not count.
DO $do$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_auth_members AS m
        JOIN pg_catalog.pg_roles AS r ON r.oid = m.roleid
        WHERE r.rolname = 'outbox_consumer' AND m.member <> current_user::regrole
    ) THEN
        RAISE NOTICE 'role outbox_consumer is kept: it has members';
    ELSE
        DROP ROLE IF EXISTS outbox_consumer;
    END IF;
EXCEPTION
    WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
        RAISE NOTICE 'role outbox_consumer is kept: %', SQLERRM;
END
$do$;

DROP FUNCTION inbox.contract_version();
-- No CASCADE: whatever was put into the schema by others makes this fail, and stays.
DROP SCHEMA inbox;
