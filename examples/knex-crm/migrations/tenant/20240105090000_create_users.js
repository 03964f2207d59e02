/** @param {import("knex").Knex} knex */
exports.up = async function (knex) {
  await knex.schema.createTable('users', (t) => {
    t.uuid('id').primary();
    t.string('email', 190).notNullable().unique();
    t.string('password_hash').notNullable();
    t.string('full_name', 200).notNullable();
    t.enu('status', ['active', 'invited', 'disabled']).notNullable().defaultTo('active');
    t.timestamp('last_login_at');
    t.timestamps(true, true);
  });
};

/** @param {import("knex").Knex} knex */
exports.down = async function (knex) {
  await knex.schema.dropTable('users');
};
