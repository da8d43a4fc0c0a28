-- Drop the slot first: a slot that reads on without its publication fails.
DROP PUBLICATION IF EXISTS {{publication}};
