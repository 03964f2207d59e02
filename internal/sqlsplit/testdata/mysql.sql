# Without DELIMITER for the most part; MariaDB 10.11 runs it all.
CREATE TABLE item (id int PRIMARY KEY, label varchar(99) DEFAULT 'a;\'b', note text, `odd;``` int, `back\` int,
  delimiter int,
  begin date, end date);
CREATE TABLE log (id int, note varchar(200) DEFAULT "it's \"; fine"); INSERT INTO log VALUES (5--3, 'a''; -- '), (1, "#;");
/*!40101 SET NAMES utf8mb4 */;
CREATE TABLE x /* not ; nested /* */ (id int); -- ;
CREATE TRIGGER t1 BEFORE INSERT ON item FOR EACH ROW SET NEW.note = CASE WHEN NEW.id > 1 THEN IF(NEW.end > NEW.begin, 'x;', 'y') ELSE 'z' END;
CREATE DEFINER = CURRENT_USER TRIGGER t2 BEFORE INSERT ON item FOR EACH ROW FOLLOWS t1
  IF NEW.id > 10 THEN
    SET NEW.label = 'big;';
  ELSEIF NEW.begin IS NULL THEN
    SET NEW.begin = current_date;
  ELSE
    SET NEW.label = IF(NEW.id = 1, 'one', 'few');
  END IF;
CREATE TRIGGER t3 AFTER INSERT ON item FOR EACH ROW BEGIN END;
CREATE PROCEDURE p1() SELECT 1;
CREATE PROCEDURE p2(IN begin date, INOUT end date)
  COMMENT 'begin; end' LANGUAGE SQL NOT DETERMINISTIC MODIFIES SQL DATA SQL SECURITY INVOKER
main: BEGIN
  DECLARE done, n int DEFAULT 0;
  DECLARE begin2 date;
  DECLARE c CURSOR FOR SELECT begin, end FROM item WHERE end > begin;
  DECLARE CONTINUE HANDLER FOR NOT FOUND, SQLSTATE VALUE '02001' SET done = CASE WHEN 1 THEN 1 END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION, 1062
  BEGIN
    ROLLBACK;
    RESIGNAL;
  END;
  OPEN c;
  each_row: LOOP
    FETCH c INTO begin, end;
    IF (done) THEN LEAVE each_row; END IF;
    CASE n
      WHEN 0 THEN SET n = 1; SET begin2 = end;
      WHEN 1 THEN BEGIN SET n = 2; END;
      ELSE BEGIN END;
    END CASE;
    CASE WHEN n > 5 THEN SELECT CASE WHEN end > begin THEN end END; ELSE SET n = n + 1; END CASE;
  END LOOP each_row;
  CLOSE c;
  REPEAT SET n = n - 1; UNTIL CASE WHEN n < 0 THEN 1 ELSE n = 0 END END REPEAT;
  again: WHILE n < 3 DO
    SET n = n + 1;
    IF n = 2 THEN ITERATE again; END IF;
  END WHILE again;
  SET end = (SELECT max(end) FROM item), begin = IF(begin IS NULL, end, begin);
  SELECT end; SELECT n AS end
  ;
END main;
CREATE FUNCTION IF NOT EXISTS f1(a varchar(10) CHARACTER SET utf8mb4, b enum('x;','y')) RETURNS set('a','b') DETERMINISTIC RETURN IF(a = b, 'a', 'b');
CREATE FUNCTION f2(start int, end int) RETURNS varchar(20) CHARACTER SET utf8mb4 NO SQL
BEGIN
  IF end > start THEN RETURN 'up;'; END IF;
  RETURN CASE end WHEN start THEN 'same' ELSE CASE WHEN (end) < 0 THEN 'neg' ELSE 'down' END END;
END;
CREATE FUNCTION f3(a int) RETURNS int
  IF a > 0 THEN RETURN 1; ELSE RETURN -1; END IF;
CREATE EVENT e1 ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01' ON COMPLETION PRESERVE COMMENT 'do; it' DO
BEGIN
  INSERT INTO log (id) VALUES (1);
  INSERT INTO log (id) VALUES (2);
END;
ALTER EVENT e1 DO BEGIN DELETE FROM log; END;
CREATE VIEW v1 AS SELECT CASE WHEN end > begin THEN 1 END AS end FROM item;
CREATE /*!50003 PROCEDURE p3() BEGIN SELECT 1; SELECT 2; END */;
SELECT end, begin FROM item; INSERT INTO log (id) SELECT CASE WHEN 1 THEN 2 END;;
-- +goose StatementBegin
CREATE PROCEDURE p4() BEGIN SELECT 1; SELECT ';'; END;
-- +goose StatementEnd
DELIMITER //
CREATE PROCEDURE p5()
BEGIN
  -- it's a comment with // in it
  SELECT '//';
  SELECT 2;
END; //
DROP PROCEDURE IF EXISTS p6; CREATE PROCEDURE p6() BEGIN SELECT 1; END//
delimiter $$ -- a note
CREATE PROCEDURE p7() BEGIN SELECT 1; END$$
CREATE PROCEDURE p8() SELECT 8
DELIMITER ;
DROP PROCEDURE p8
