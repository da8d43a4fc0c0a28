-- What a relay is sent: inserts only, under the name of the partitions' root, and only the columns that
-- become part of a record. Made before the slot, since a slot decodes with the publications of its time.
CREATE PUBLICATION {{publication}} FOR TABLE {{table}} ({{columns}})
    WITH (publish = 'insert', publish_via_partition_root = true);
