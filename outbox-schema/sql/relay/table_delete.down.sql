REVOKE DELETE ON {{table}} FROM {{role}};
