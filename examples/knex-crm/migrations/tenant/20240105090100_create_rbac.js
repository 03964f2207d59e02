/** @param {import("knex").Knex} knex */
exports.up = async function (knex) {
  await knex.schema
    .createTable('roles', (t) => {
      t.increments('id');
      t.string('name', 100).notNullable().unique();
      t.text('description');
      t.boolean('is_system').notNullable().defaultTo(false);
      t.timestamps(true, true);
    })
    .createTable('permissions', (t) => {
      t.increments('id');
      t.string('resource', 100).notNullable();
      t.string('action', 50).notNullable();
      t.unique(['resource', 'action']);
    })
    .createTable('role_permissions', (t) => {
      t.integer('role_id').unsigned().notNullable().references('id').inTable('roles').onDelete('CASCADE');
      t.integer('permission_id').unsigned().notNullable().references('id').inTable('permissions').onDelete('CASCADE');
      t.primary(['role_id', 'permission_id']);
    })
    .createTable('user_roles', (t) => {
      t.uuid('user_id').notNullable().references('id').inTable('users').onDelete('CASCADE');
      t.integer('role_id').unsigned().notNullable().references('id').inTable('roles').onDelete('CASCADE');
      t.primary(['user_id', 'role_id']);
    });

  await knex('roles').insert([
    { name: 'admin', description: 'Full access', is_system: true },
    { name: 'agent', description: 'Works with contacts', is_system: true },
  ]);
  const actions = ['read', 'write', 'delete'];
  await knex('permissions').insert(['contacts', 'objects', 'users'].flatMap((resource) => actions.map((action) => ({ resource, action }))));
  const admin = await knex('roles').where({ name: 'admin' }).first('id');
  const permissions = await knex('permissions').select('id');
  await knex('role_permissions').insert(permissions.map(({ id }) => ({ role_id: admin.id, permission_id: id })));
};

/** @param {import("knex").Knex} knex */
exports.down = async function (knex) {
  for (const table of ['user_roles', 'role_permissions', 'permissions', 'roles']) {
    await knex.schema.dropTable(table);
  }
};
