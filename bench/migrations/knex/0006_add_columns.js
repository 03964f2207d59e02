exports.up = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => {
    t.string('lifecycle_stage', 30).notNullable().defaultTo('lead');
    t.integer('score').notNullable().defaultTo(0);
  });
  await knex.schema.alterTable('users', (t) => {
    t.datetime('last_login_at');
  });
  await knex('roles').where({ name: 'agent' }).update({ description: 'Own records only' });
};

exports.down = async function (knex) {
  await knex.schema.alterTable('users', (t) => t.dropColumn('last_login_at'));
  await knex.schema.alterTable('contacts', (t) => t.dropColumns('score', 'lifecycle_stage'));
};
