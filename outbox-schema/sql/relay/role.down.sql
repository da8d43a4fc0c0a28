-- Fails when the role owns something or was granted more than being a relay: that is somebody else's to undo.
DROP ROLE IF EXISTS {{role}};
