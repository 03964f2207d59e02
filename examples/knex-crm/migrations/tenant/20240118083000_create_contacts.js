/** @param {import("knex").Knex} knex */
exports.up = async function (knex) {
  await knex.schema.createTable('accounts', (t) => {
    t.bigIncrements('id');
    t.string('name', 200).notNullable();
    t.decimal('annual_revenue', 14, 2);
    t.timestamps(true, true);
  });
  await knex.schema.createTable('contacts', (t) => {
    t.bigIncrements('id');
    t.bigInteger('account_id').unsigned().references('id').inTable('accounts').onDelete('SET NULL');
    t.uuid('owner_id').references('id').inTable('users').onDelete('SET NULL');
    t.string('name', 200).notNullable();
    t.string('email', 190);
    t.string('phone', 40);
    t.json('custom_data');
    t.timestamps(true, true);
    t.index(['account_id', 'name'], 'contacts_account_name_idx');
  });
};

/** @param {import("knex").Knex} knex */
exports.down = async function (knex) {
  await knex.schema.dropTable('contacts').dropTable('accounts');
};
