// What Skein takes from a project's knexfile; the connection is the tenant's.
module.exports = {
  postgres: { client: 'pg' },
  mysql: { client: 'mysql2' },
  sqlite: { client: 'better-sqlite3', useNullAsDefault: true },
};
