REVOKE SELECT ON {{table}} FROM {{role}};
REVOKE USAGE ON SCHEMA {{schema}} FROM {{role}};
