exports.up = async function (knex) {
  await knex.schema.createTable('object_definitions', (t) => {
    t.uuid('id').primary();
    t.string('api_name', 100).notNullable().unique();
    t.string('label', 190).notNullable();
    t.json('settings').notNullable();
    t.timestamp('created_at').notNullable().defaultTo(knex.fn.now());
  });
  await knex.schema.createTable('field_definitions', (t) => {
    t.uuid('id').primary();
    t.uuid('object_id').notNullable().references('id').inTable('object_definitions').onDelete('CASCADE');
    t.string('api_name', 100).notNullable();
    t.string('field_type', 16).notNullable();
    t.boolean('required').notNullable().defaultTo(false);
    t.integer('position').notNullable().defaultTo(0);
    t.unique(['object_id', 'api_name'], { indexName: 'field_api' });
  });
};

exports.down = async function (knex) {
  await knex.schema.dropTable('field_definitions').dropTable('object_definitions');
};
