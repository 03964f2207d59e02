exports.up = (knex) =>
  knex.schema.createTable('object_definitions', (t) => {
    t.uuid('id').primary();
    t.string('api_name', 100).notNullable().unique();
    t.string('label', 150).notNullable();
    t.string('plural_label', 150).notNullable();
    t.json('settings');
    t.uuid('created_by').references('id').inTable('users').onDelete('SET NULL');
    t.timestamps(true, true);
  });

exports.down = (knex) => knex.schema.dropTable('object_definitions');
