ALTER TABLE contacts DROP COLUMN nickname;
