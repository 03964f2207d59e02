// PostgreSQL builds an index without keeping writers out only outside of a
// transaction.
exports.config = { transaction: false };

const concurrently = (knex) => (knex.client.config.client === 'pg' ? 'CONCURRENTLY' : '');

/** @param {import("knex").Knex} knex */
exports.up = async function (knex) {
  await knex.raw(`CREATE INDEX ${concurrently(knex)} contacts_email_idx ON contacts (email)`);
};

/** @param {import("knex").Knex} knex */
exports.down = async function (knex) {
  await knex.raw(`DROP INDEX ${concurrently(knex)} contacts_email_idx`);
};
