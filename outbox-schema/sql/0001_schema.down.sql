-- No CASCADE: whatever was put into the schema by others makes this fail, and stays.
DROP FUNCTION outbox.contract_version();
DROP SCHEMA outbox;
