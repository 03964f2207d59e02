-- migrate:up
CREATE TABLE contacts (
  id integer PRIMARY KEY,
  name varchar(200) NOT NULL,
  email varchar(200)
);

-- migrate:down
DROP TABLE contacts;
