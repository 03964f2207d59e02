exports.up = (knex) =>
  knex.schema.createTable('field_definitions', (t) => {
    t.uuid('id').primary();
    t.uuid('object_definition_id').notNullable().references('id').inTable('object_definitions').onDelete('CASCADE');
    t.string('api_name', 100).notNullable();
    t.string('label', 150).notNullable();
    t.string('type', 50).notNullable();
    t.boolean('is_required').notNullable().defaultTo(false);
    t.integer('position').notNullable().defaultTo(0);
    t.jsonb('options');
    t.timestamps(true, true);
    t.unique(['object_definition_id', 'api_name'], { indexName: 'field_definitions_object_api_uq' });
  });

exports.down = (knex) => knex.schema.dropTable('field_definitions');
