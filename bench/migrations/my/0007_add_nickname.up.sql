ALTER TABLE contacts ADD COLUMN nickname varchar(100);
