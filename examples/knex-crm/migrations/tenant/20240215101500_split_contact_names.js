// Reads rows and writes them back, a page at a time: what SQL alone would do
// differently on each database.
const PAGE = 500;

/** @param {import("knex").Knex} knex */
exports.up = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => {
    t.string('first_name', 100);
    t.string('last_name', 100);
  });
  let total = 0;
  for (let last = 0; ; ) {
    const page = await knex('contacts').select('id', 'name').where('id', '>', last).orderBy('id').limit(PAGE);
    if (page.length === 0) break;
    for (const { id, name } of page) {
      const words = name.trim().split(/\s+/);
      await knex('contacts')
        .where({ id })
        .update({ first_name: words.slice(0, -1).join(' ') || null, last_name: words[words.length - 1] });
    }
    total += page.length;
    last = page[page.length - 1].id;
  }
  console.log(`split the names of ${total} contacts`);
};

/** @param {import("knex").Knex} knex */
exports.down = async function (knex) {
  await knex.schema.alterTable('contacts', (t) => {
    t.dropColumn('first_name');
    t.dropColumn('last_name');
  });
};
