-- Every construct in which a semicolon does not end a statement; PostgreSQL 15 runs it all.
CREATE SCHEMA shop
  CREATE TABLE item (id int PRIMARY KEY, label text DEFAULT 'a;b', note text)
  CREATE VIEW labels AS SELECT label FROM item WHERE label <> ';';

CREATE TABLE shop.log (id bigserial, "odd;name" text, note text); CREATE TABLE shop.log2 (LIKE shop.log);

CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
  -- it's fine; really
  NEW.note := $q$;$q$;
  RETURN NEW;
END;
$body$;

/* outer /* inner; */ still; */
CREATE TRIGGER touch BEFORE INSERT ON shop.item FOR EACH ROW EXECUTE FUNCTION shop.touch();

CREATE OR REPLACE FUNCTION shop.sign(a int) RETURNS text LANGUAGE SQL
BEGIN /* why not */ ATOMIC
  SELECT CASE WHEN a > 0 THEN 'p;' ELSE CASE WHEN a = 0 THEN 'z' ELSE 'n' END END;
  SELECT 1 AS end, 2 AS case;
  SELECT begin::text FROM (SELECT a AS begin) q;
END;

CREATE PROCEDURE shop.add(a int)
BEGIN ATOMIC
  INSERT INTO shop.item (id) VALUES (a);
  INSERT INTO shop.item (id) VALUES (CASE WHEN a > 100 THEN -a ELSE a + 1000 END);
END;

CREATE RULE r AS ON UPDATE TO shop.item DO ALSO (
  INSERT INTO shop.log (note) VALUES ('u;');
  INSERT INTO shop.log2 (id, note) VALUES (2, ')');
);

INSERT INTO shop.item VALUES (1, E'it\'s; \\', U&'d\0061t;a'), (2, 'back\', ';'), (3, E'a'
  -- goes on
  'b\';c', e'x''y\';');
SELECT "odd;name" FROM (SELECT 1 AS "odd;name") q;;
SELECT a$b$ FROM (SELECT 1 AS a$b$) q;
SELECT 5--3;
  , 6;
DO $ж$ BEGIN PERFORM 1; END $ж$;
-- +goose StatementBegin
CREATE FUNCTION shop.goose() RETURNS int LANGUAGE sql AS 'select 1;';
-- +goose StatementEnd
COMMENT ON TABLE shop.item IS 'наименование; "x"'
;
DROP SCHEMA shop CASCADE
-- no terminator; a comment
