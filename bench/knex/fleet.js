// The script that teams write: one knex instance for each tenant, migrate.latest(),
// one tenant after the other, or so many in flight at once.
//
//   node fleet.js latest|down|list TENANTS.json MIGRATIONS_DIR IN_FLIGHT
const fs = require('node:fs');
const knex = require('knex');

const [action, tenantsFile, directory, inFlight] = process.argv.slice(2);
const tenants = JSON.parse(fs.readFileSync(tenantsFile, 'utf8'));

function settings(t) {
  const { host, port, database, user, password } = t;
  const migrations = { directory };
  switch (t.engine) {
    case 'postgres':
      return { client: 'pg', connection: { host, port, database, user, password }, searchPath: t.schema, migrations };
    case 'mysql':
      return { client: 'mysql2', connection: { host, port, database, user, password }, migrations };
    default:
      return { client: 'better-sqlite3', connection: { filename: database }, useNullAsDefault: true, migrations };
  }
}

async function migrate(tenant) {
  const db = knex(settings(tenant));
  try {
    await db.migrate[action]();
  } finally {
    await db.destroy();
  }
}

async function worker() {
  for (let tenant = tenants.shift(); tenant; tenant = tenants.shift()) {
    await migrate(tenant);
  }
}

Promise.all(Array.from({ length: Number(inFlight) }, worker)).catch((err) => {
  console.error(err.message);
  process.exit(1);
});
