// What a developer's own Knex uses on one tenant: TENANT_URL=postgres://... or the
// path of a SQLite file. Skein takes everything but the connection from here.
const url = process.env.TENANT_URL || 'databases/acme.db';
const migrations = { directory: './migrations/tenant' };

module.exports = {
  development: {
    client: 'better-sqlite3',
    connection: { filename: url },
    useNullAsDefault: true,
    migrations,
  },
  production: {
    client: 'pg',
    connection: { connectionString: url },
    migrations,
  },
};
