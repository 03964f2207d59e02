exports.up = async function (knex) {
  await knex.schema.createTable('contacts', (t) => {
    t.uuid('id').primary();
    t.uuid('owner_id').references('id').inTable('users').onDelete('SET NULL');
    t.string('first_name', 100);
    t.string('last_name', 100).notNullable();
    t.string('email', 190);
    t.string('phone', 50);
    t.json('custom');
    t.timestamp('created_at').notNullable().defaultTo(knex.fn.now());
    t.timestamp('updated_at').notNullable().defaultTo(knex.fn.now());
  });
  await knex.schema.createTable('activities', (t) => {
    t.bigIncrements('id');
    t.uuid('contact_id').notNullable().references('id').inTable('contacts').onDelete('CASCADE');
    t.string('kind', 50).notNullable();
    t.text('body');
    t.datetime('due_at');
  });
};

exports.down = async function (knex) {
  await knex.schema.dropTable('activities').dropTable('contacts');
};
