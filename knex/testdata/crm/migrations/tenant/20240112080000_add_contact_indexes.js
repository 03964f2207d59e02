exports.up = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => {
    t.index(['last_name', 'first_name'], 'contacts_name_idx');
    t.index('email');
    t.index('owner_id', 'contacts_owner_idx');
  });
  if (knex.client.config.client === 'pg') {
    await knex.raw('CREATE INDEX contacts_email_lower_idx ON contacts (lower(email))');
  }
};

exports.down = async function (knex) {
  if (knex.client.config.client === 'pg') {
    await knex.raw('DROP INDEX IF EXISTS contacts_email_lower_idx');
  }
  await knex.schema.alterTable('contacts', (t) => {
    // MySQL keeps an index that a foreign key needs.
    if (knex.client.config.client === 'mysql2') t.dropForeign('owner_id');
    t.dropIndex('owner_id', 'contacts_owner_idx');
    t.dropIndex('email');
    t.dropIndex(['last_name', 'first_name'], 'contacts_name_idx');
  });
};
