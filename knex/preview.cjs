// ---- Previews ----
//
// This file is the end of worker.cjs, with which it is one program. A process that
// makes previews runs no migrations.

// preview calls one side of a migration with a Knex that has no database, and
// tells the statements that it would send. A statement that only changes is
// answered with a result that may not be looked at. The first thing that only a
// database can answer ends the preview: what the migration does after it depends
// on the answer.
async function preview(request) {
  const { file } = request;
  const t = { request: { ...request, files: [file] }, at: -1, errors: new WeakMap(), begun: 0, completed: 0, wanted: [] };
  const p = { statements: [], running: false, end: undefined };
  t.ended = (err) => (p.end ? { ...errorOf(p.end, t), ended: true } : errorOf(err, t));
  tenant = t;
  const answer = { t: 'preview' };
  try {
    const config = previewConfig(request.engine, p);
    const content = await load(file);
    const side = content[request.direction];
    if (typeof side !== 'function') throw new Error(`it has no ${request.direction} function`);
    answer.transaction = ownTransaction(content, config.migrations.disableTransactions);
    const knex = project.knex(config);
    // Migrations look here for what database they are on.
    knex.client.config.client = configFor(request.engine).client;
    guard(p);
    const perform = async (k) => {
      p.running = true;
      try {
        await side(k);
      } finally {
        p.running = false;
      }
    };
    await (answer.transaction ? knex.transaction(perform) : perform(knex));
  } catch (err) {
    answer.error = t.ended(err);
  }
  if (tenant !== t) return; // it has been reported as ended otherwise
  tenant = undefined;
  if (p.end) answer.error = t.ended(); // it may have caught the error
  send({ ...answer, statements: p.statements });
}

// stop ends a preview, with a reason that begins with a verb.
function stop(p, reason) {
  if (!p.end) p.end = new Error(reason);
  throw new Error('the preview has ended');
}

// previewConfig is the project's configuration with a client that connects to
// nothing.
function previewConfig(engine, p) {
  const { connection, connectionPool, pool, postProcessResponse, ...own } = configFor(engine);
  const Dialect = project.knex({ ...own }).client.constructor; // which loads no driver
  class Client extends Dialect {
    initializeDriver() {}
    initializePool() {}
    async acquireConnection() {
      return { __knexUid: 'preview' };
    }
    async releaseConnection() {}
    async query(_, query) {
      const obj = typeof query === 'string' ? { sql: query } : query;
      if (p.running) note(p, obj, this);
      return { result: unseen(p, obj.sql) };
    }
    async stream(_, obj, stream) {
      if (!p.end) p.end = new Error(readsText(obj.sql));
      stream.emit('error', p.end);
    }
    processResponse(response) {
      return response.result;
    }
  }
  Object.defineProperty(Client, 'name', { value: Dialect.name });
  return { migrations: {}, ...own, client: Client, asyncStackTraces: true };
}

// note takes down a statement, or ends the preview with it.
function note(p, obj, client) {
  if (p.end) throw new Error('the preview has ended');
  if (!obj.sql) throw new Error('The query is empty'); // as Knex says it
  const sql = hidden(project.formatQuery(obj.sql, [].concat(obj.bindings || []).map(hidden), undefined, client));
  if (reads(obj)) {
    p.end = new Error(readsText(sql));
    throw p.end; // Knex puts the migration's line into it
  }
  p.statements.push(sql.replace(/[;\s]+$/, ''));
}

const readsText = (sql) => `reads the database (${excerpt(sql)}), and what it does depends on what it finds`;

// Variables of the environment whose values are not shown.
const secretName = /pass|secret|token|key|credential|private|salt|auth|dsn|ur[il]$/i;

// hidden is a value without what the environment keeps secret.
function hidden(value) {
  if (typeof value !== 'string') return value;
  for (const [name, secret] of Object.entries(process.env)) {
    if (!secret || !secretName.test(name)) continue;
    if (value === secret) return '[redacted]';
    if (secret.length >= 6) value = value.replaceAll(secret, '[redacted]');
  }
  return value;
}

function excerpt(sql) {
  const words = String(sql).split(/\s+/).filter(Boolean).join(' ');
  return words.length > 100 ? words.slice(0, 99) + '…' : words;
}

// unseen stands for what a statement returned. It can be passed on, and not
// looked at.
function unseen(p, sql) {
  const seen = () => stop(p, `uses what the database answered to a statement (${excerpt(sql)})`);
  // What promises and lists look at in all that they are given.
  const passing = new Set(['then', Symbol.isConcatSpreadable, Symbol.toStringTag, 'callee']);
  return new Proxy({}, {
    get: (_, key) => (passing.has(key) ? undefined : seen()),
    has: (_, key) => (passing.has(key) ? false : seen()),
    getOwnPropertyDescriptor: (_, key) => (passing.has(key) ? undefined : seen()),
    ownKeys: seen,
  });
}

// What a migration may do beside its database, and a preview may not.
const effects = [
  ['opens a connection of its own', net.Socket.prototype, ['connect']],
  ['opens a connection of its own', require('dgram').Socket.prototype, ['bind', 'connect', 'send']],
  ['starts a program', require('child_process'), ['exec', 'execFile', 'execFileSync', 'execSync', 'fork', 'spawn', 'spawnSync']],
];
const writing = ['appendFile', 'chmod', 'chown', 'copyFile', 'cp', 'lchown', 'link', 'lutimes', 'mkdir', 'mkdtemp', 'rename', 'rm', 'rmdir', 'symlink', 'truncate', 'unlink', 'utimes', 'writeFile'];
effects.push(['writes files', fs, [...writing, ...writing.map((name) => name + 'Sync'), 'createWriteStream'], ['open', 'openSync']]);
effects.push(['writes files', fs.promises, writing, ['open']]);

let guarded; // the preview whose migration may do none of this

// guard keeps the migration from doing what a look at it must not do. Modules
// that have copied a function before get past it.
function guard(p) {
  const first = !guarded;
  guarded = p;
  if (!first) return;
  for (const [what, object, names, opening = []] of effects) {
    for (const name of [...names, ...opening]) {
      const does = object[name];
      if (typeof does !== 'function') continue; // this Node does not have it
      const allowed = (args) => opening.includes(name) && (args[1] === undefined || typeof args[1] === 'function' || args[1] === 'r' || args[1] === 0);
      object[name] = function (...args) {
        if (guarded.running && !allowed(args)) stop(guarded, what);
        return Reflect.apply(does, this, args);
      };
    }
  }
  require('module').syncBuiltinESMExports();
}
