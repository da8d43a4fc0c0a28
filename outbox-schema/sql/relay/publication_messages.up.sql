-- A relay of messages needs a publication, since its slot asks for one by name, and no table in it: messages come
-- through every slot.
CREATE PUBLICATION {{publication}} WITH (publish = 'insert');
