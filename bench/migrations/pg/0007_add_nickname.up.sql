ALTER TABLE contacts ADD COLUMN nickname text;
