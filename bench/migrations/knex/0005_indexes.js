exports.up = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => {
    t.index(['last_name', 'first_name'], 'contacts_name_idx');
    t.index(['email'], 'contacts_email_idx');
    t.index(['created_at'], 'contacts_created_idx');
  });
  await knex.schema.alterTable('activities', (t) => {
    t.index(['contact_id', 'due_at'], 'activities_due_idx');
  });
};

exports.down = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => {
    t.dropIndex(['created_at'], 'contacts_created_idx');
    t.dropIndex(['email'], 'contacts_email_idx');
    t.dropIndex(['last_name', 'first_name'], 'contacts_name_idx');
  });
};
