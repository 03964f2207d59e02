// As projects have it for working on one tenant by hand.
const { TENANT_HOST: host, TENANT_PORT: port, TENANT_USER: user, TENANT_PASSWORD: password, TENANT_DATABASE: database, TENANT_SCHEMA } = process.env;
const migrations = { directory: './migrations/tenant' };
module.exports = {
  pg: { client: 'pg', connection: { host, port, user, password, database }, searchPath: TENANT_SCHEMA ? [TENANT_SCHEMA, 'public'] : undefined, migrations },
  mysql: { client: 'mysql2', connection: { host, port, user, password, database }, migrations },
  sqlite: { client: 'better-sqlite3', connection: { filename: database || './tenant.sqlite' }, useNullAsDefault: true, migrations },
};
