exports.up = async function (knex) {
  await knex.schema.createTable('roles', (t) => {
    t.increments('id');
    t.string('name', 100).notNullable().unique();
    t.text('description');
  });
  await knex.schema.createTable('user_roles', (t) => {
    t.uuid('user_id').notNullable().references('id').inTable('users').onDelete('CASCADE');
    t.integer('role_id').unsigned().notNullable().references('id').inTable('roles').onDelete('CASCADE');
    t.primary(['user_id', 'role_id']);
  });
  await knex('roles').insert([
    { name: 'admin', description: 'Full access' },
    { name: 'manager', description: 'Team access' },
    { name: 'agent', description: 'Own records' },
  ]);
};

exports.down = async function (knex) {
  await knex.schema.dropTable('user_roles').dropTable('roles');
};
