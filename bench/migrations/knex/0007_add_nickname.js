exports.up = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => t.string('nickname', 100));
};

exports.down = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => t.dropColumn('nickname'));
};
