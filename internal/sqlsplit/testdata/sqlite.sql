-- Run by the tests.
CREATE TABLE item (id integer PRIMARY KEY, "label;" text DEFAULT 'a;''b', [note;] text, `odd;``` text, "end" text);
CREATE TABLE log (id integer, note text, end text);
CREATE TEMP TRIGGER t1 AFTER INSERT ON item WHEN new.id > 0
BEGIN
  INSERT INTO log VALUES (new.id, CASE WHEN new.id > 1 THEN 'x;' ELSE CASE 1 WHEN 1 THEN 'y' END END, 'end');
  UPDATE log SET end = note /* ; END; */ WHERE end IS NULL;
  SELECT end FROM log; -- END;
END;
CREATE TRIGGER IF NOT EXISTS t2 BEFORE DELETE ON item BEGIN SELECT 1; SELECT RAISE(ABORT, 'no; END;') WHERE old.id = 1; end
;
INSERT INTO item (id) VALUES (1);;
INSERT INTO log VALUES (2, 'back\', NULL); INSERT INTO log VALUES (3, '
-- not a comment; /*', x'00');
BEGIN; UPDATE log SET note = 'b'; END;
CREATE VIEW v AS SELECT 1 AS a /* nested /* is; not */, 2 AS b -- c;
;
-- +goose StatementBegin
CREATE TRIGGER t3 AFTER UPDATE ON item BEGIN SELECT 2; END;
-- +goose StatementEnd
DROP TABLE item
