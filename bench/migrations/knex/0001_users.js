exports.up = async function (knex) {
  await knex.schema.createTable('users', (t) => {
    t.uuid('id').primary();
    t.string('email', 190).notNullable();
    t.string('display_name', 190).notNullable().defaultTo('');
    t.boolean('is_active').notNullable().defaultTo(true);
    t.timestamp('created_at').notNullable().defaultTo(knex.fn.now());
    t.unique(['email'], { indexName: 'users_email_key' });
  });
};

exports.down = async function (knex) {
  await knex.schema.dropTable('users');
};
