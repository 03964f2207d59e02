'use strict';
// The Node side of Skein's package knex: runs the migrations of one tenant after
// another with the project's own Knex.
//
// Messages are lines of JSON: Skein's come on descriptor 3, this process answers
// on descriptor 4 and puts the token that the first message gave it before each
// line. Standard output and standard error belong to the migrations, and
// standard input is empty. What each message means is told in protocol.go.

const fs = require('fs');
const net = require('net');
const path = require('path');
const { Module, createRequire } = require('module');
const { pathToFileURL, fileURLToPath } = require('url');

// Migrations may replace what they find in globals: what this file needs
// afterwards is kept here.
const reallyExit = process.reallyExit.bind(process);
const { parse, stringify } = JSON;
const { setTimeout, clearTimeout, setImmediate, Promise } = globalThis;
const writeSync = fs.writeSync;
const hrtime = process.hrtime.bigint;
const residentSize = process.memoryUsage.rss;

let token = '';
let project; // what open found
let tenant; // the run under way
let opening = false;

let waiting = ''; // what is sent with the next message

// Each message wakes up Skein, which costs as much as a small query.
function sendLater(message) {
  waiting += token + stringify(message) + '\n';
}

function send(message) {
  sendLater(message);
  const text = waiting;
  waiting = '';
  writeAll(4, text);
}

function writeAll(fd, text) {
  const data = Buffer.from(text);
  for (let at = 0; at < data.length; ) {
    try {
      at += writeSync(fd, data, at);
    } catch (err) {
      if (err.code !== 'EAGAIN') throw err;
    }
  }
}

// leave ends the process without what migrations registered for its exit.
function leave() {
  try {
    markOutput('-');
  } finally {
    reallyExit(1);
  }
}

// markOutput says whose output follows, on both streams: that of the run (+), of
// one of its steps (the number), or nobody's (-).
function markOutput(whose) {
  for (const fd of [1, 2]) {
    unsaid[fd] = undefined;
    mark(fd, whose);
  }
}

function mark(fd, whose) {
  try {
    writeAll(fd, '\n' + token + whose + '\n');
  } catch {
    // The migration has closed the stream.
  }
}

const unsaid = {}; // marks by their streams, which are written if something follows them

// markLater is markOutput for output of which there may be none. What does not go
// through process.stdout and process.stderr stays with the mark before.
function markLater(whose) {
  unsaid[1] = unsaid[2] = whose;
}

for (const [fd, stream] of [[1, process.stdout], [2, process.stderr]]) {
  const { write } = stream;
  stream.write = function (...args) {
    if (unsaid[fd] !== undefined) {
      mark(fd, unsaid[fd]);
      unsaid[fd] = undefined;
    }
    return Reflect.apply(write, this, args);
  };
}

// ---- The project ----

const knexfileExtensions = ['js', 'cjs', 'mjs', 'ts', 'cts', 'mts'];

async function open(options) {
  const base = createRequire(path.join(options.dir, 'package.json'));
  let main;
  try {
    main = base.resolve('knex');
  } catch (err) {
    if (err.code !== 'MODULE_NOT_FOUND') throw err;
    const places = (base.resolve.paths('knex') || []).filter((p) => p.endsWith('node_modules'));
    throw Object.assign(new Error(`knex is not installed in ${options.dir}`), { looked: places });
  }
  const root = packageRoot(main);
  project = {
    options,
    base,
    root,
    version: readPackage(root).version,
    importFile: importer(root),
    formatQuery: formatter(root),
    versions: new Map(),
    ssl: new Map(),
  };
  // What a program finds out about itself is as under Knex's own command.
  const cli = path.join(root, 'bin', 'cli.js');
  process.argv = [process.argv[0], cli];
  const main_ = new Module(cli);
  main_.filename = cli;
  process.mainModule = main_;

  project.knex = base('knex');
  if (project.knex && project.knex.default && typeof project.knex !== 'function') project.knex = project.knex.default;
  await openKnexfile();
  return project;
}

function packageRoot(file) {
  for (let dir = path.dirname(file); ; dir = path.dirname(dir)) {
    if (fs.existsSync(path.join(dir, 'package.json')) && readPackage(dir).name === 'knex') return dir;
    if (dir === path.dirname(dir)) return path.dirname(file);
  }
}

function readPackage(dir) {
  return parse(fs.readFileSync(path.join(dir, 'package.json'), 'utf8'));
}

// importer is Knex's own rule for import or require, of the version that the
// project has.
function importer(root) {
  try {
    return require(path.join(root, 'lib', 'migrations', 'util', 'import-file.js'));
  } catch {
    return async (file) => (isModule(file) ? import(pathToFileURL(file)) : project.base(file));
  }
}

function isModule(file) {
  if (file.endsWith('.mjs')) return true;
  if (file.endsWith('.cjs')) return false;
  for (let dir = path.dirname(file); ; dir = path.dirname(dir)) {
    if (fs.existsSync(path.join(dir, 'package.json'))) return readPackage(dir).type === 'module';
    if (dir === path.dirname(dir)) return false;
  }
}

// formatter is what Knex puts values into a statement with, before an error's
// message.
function formatter(root) {
  try {
    const { formatQuery } = require(path.join(root, 'lib', 'execution', 'internal', 'query-executioner.js'));
    if (formatQuery) return formatQuery;
  } catch {
    // Older versions have it as a method.
  }
  return (sql, bindings, timeZone, client) => client._formatQuery(sql, bindings, timeZone);
}

// openKnexfile does what openKnexfile in bin/cli.js of Knex does.
async function openKnexfile() {
  const file = project.options.knexfile || findKnexfile(project.options.dir);
  project.knexfile = file;
  project.configs = {};
  if (!file) return;
  try {
    let config = await project.importFile(file);
    if (config && config.default) config = config.default;
    if (typeof config === 'function') config = await config();
    if (config === null || typeof config !== 'object') throw new TypeError('it exports no configuration');
    project.configs = config;
  } catch (err) {
    throw Object.assign(new Error(`${relative(file)} cannot be loaded: ${brief(err)}`), { cause: err, stack: err && err.stack, stripped: needsLoader(file, err) });
  }
}

// needsLoader says whether a file could not be loaded as Node by itself takes
// types out of TypeScript and does nothing else with it.
function needsLoader(file, err) {
  const loader = process.execArgv.some((arg) => /tsx|ts-node/.test(arg));
  return /\.[cm]?ts$/.test(file) && !loader && !!err && (err.name === 'SyntaxError' || err.code === 'ERR_MODULE_NOT_FOUND' || err.code === 'MODULE_NOT_FOUND');
}

function findKnexfile(from) {
  for (let dir = from; ; dir = path.dirname(dir)) {
    for (const ext of knexfileExtensions) {
      const file = path.join(dir, 'knexfile.' + ext);
      if (fs.existsSync(file)) return file;
    }
    if (dir === path.dirname(dir)) return '';
  }
}

function relative(file) {
  const from = path.relative(project.options.dir, file);
  return from.startsWith('..') ? file : from;
}

// brief is an error's text for one line: what compilers say has several.
function brief(err) {
  const text = err && err.message !== undefined ? String(err.message) : String(err);
  return text.split('\n').map((line) => line.trim()).filter(Boolean).slice(0, 4).join(' ').slice(0, 500);
}

function firstLine(err) {
  const text = err && err.message !== undefined ? String(err.message) : String(err);
  return text.split('\n', 1)[0];
}

function environment() {
  return project.options.env || process.env.NODE_ENV || 'development';
}

// The engine that a client of Knex is for, empty for one that Skein has no
// engine for.
function engineOf(client) {
  if (typeof client === 'function') client = client.prototype && (client.prototype.dialect || client.prototype.driverName);
  switch (client) {
    case 'pg':
    case 'postgres':
    case 'postgresql':
    case 'pgnative':
    case 'pg-native':
      return 'postgres';
    case 'mysql':
    case 'mysql2':
    case 'mariadb':
      return 'mysql';
    case 'sqlite':
    case 'sqlite3':
    case 'better-sqlite3':
      return 'sqlite';
  }
  return '';
}

const drivers = { postgres: ['pg'], mysql: ['mysql2', 'mysql'], sqlite: ['better-sqlite3', 'sqlite3'] };

// configFor is the configuration that the knexfile has for an engine: that of
// the environment, as Knex takes it, or else the only one whose client fits.
function configFor(engine) {
  const { configs } = project;
  const named = configs[environment()] || configs;
  if (engineOf(named.client) === engine) return named;
  const fitting = Object.keys(configs).filter((name) => configs[name] && engineOf(configs[name].client) === engine);
  if (fitting.length === 1) return configs[fitting[0]];
  if (fitting.length > 1) {
    throw new Error(`${relative(project.knexfile)} has ${fitting.length} environments for ${engine} (${fitting.join(', ')}), and none of them is ${environment()}: choose one with NODE_ENV`);
  }
  if (named.client !== undefined) {
    throw new Error(`${relative(project.knexfile)} is for the client ${typeof named.client === 'function' ? named.client.name : named.client}, and the tenant is on ${engine}: add an environment for it`);
  }
  for (const driver of drivers[engine]) {
    try {
      project.base.resolve(driver);
      return { ...named, client: driver };
    } catch {
      // The next one.
    }
  }
  throw new Error(`no driver for ${engine} is installed in ${project.options.dir}: npm install ${drivers[engine][0]}`);
}

// describe is what the knexfile says of migrations.
function describe() {
  const { configs } = project;
  const named = configs[environment()] || configs;
  const own = named.migrations || {};
  const all = Object.keys(configs).filter((name) => configs[name] && typeof configs[name] === 'object' && configs[name].client !== undefined);
  return {
    knexfile: project.knexfile,
    knex: project.version,
    environment: configs[environment()] ? environment() : '',
    environments: all,
    client: typeof named.client === 'string' ? named.client : '',
    engine: engineOf(named.client),
    directory: own.directory === undefined ? [] : [].concat(own.directory),
    tableName: own.tableName || '',
    schemaName: own.schemaName || '',
    extension: own.extension || '',
    loadExtensions: own.loadExtensions ? [...own.loadExtensions] : [],
    sortDirsSeparately: !!own.sortDirsSeparately,
    disableTransactions: !!own.disableTransactions,
    ownSource: !!own.migrationSource,
    searchPath: named.searchPath === undefined ? [] : searchPathOf(named.searchPath),
  };
}

function searchPathOf(value) {
  return (Array.isArray(value) ? value : String(value).split(',')).map((s) => String(s).trim());
}

// ---- The connection ----

async function tenantConfig(run) {
  const own = configFor(run.engine);
  const given = own.connection && typeof own.connection === 'object' ? { ...own.connection } : {};
  for (const key of ['connectionString', 'uri', 'socketPath', 'filename', 'host', 'port', 'user', 'password', 'database', 'expirationChecker']) delete given[key];
  const { directory, loadExtensions, sortDirsSeparately, migrationSource, ...migrations } = own.migrations || {};
  checkTable(migrations, run);

  const config = { ...own, migrations, asyncStackTraces: true };
  delete config.connectionPool;
  switch (run.engine) {
    case 'postgres':
      config.connection = { ...given, ...(await postgres(run.target, given)) };
      setSearchPath(config, searchPath(own, run.target), run);
      break;
    case 'mysql':
      config.connection = { ...given, ...mysql(run.target, given) };
      break;
    default:
      config.connection = { ...given, filename: run.target.database };
      if (config.useNullAsDefault === undefined) config.useNullAsDefault = true;
  }
  const version = project.versions.get(run.server);
  if (version && config.version === undefined) config.version = version;
  config.pool = pool(own.pool || {}, run);
  return config;
}

function checkTable(migrations, run) {
  const says = (setting, value, setAt) =>
    new Error(`${relative(project.knexfile)} has migrations.${setting} ${stringify(value)}, and Skein reads ${stringify(setAt)}: the two must be the same`);
  if (migrations.tableName && migrations.tableName !== run.table) throw says('tableName', migrations.tableName, run.table);
  const here = run.engine === 'mysql' ? run.target.database : run.target.schema || 'public';
  if (migrations.schemaName && run.engine !== 'sqlite' && migrations.schemaName !== here) {
    throw new Error(`${relative(project.knexfile)} has migrations.schemaName ${stringify(migrations.schemaName)}, and the tenant's is ${stringify(here)}: give the tenant that schema, or take schemaName out`);
  }
  migrations.tableName = run.table;
  // The tenant's search path leads to its schema, which need not be named: Knex
  // would name it in the constraints' and sequences' statements too.
  delete migrations.schemaName;
}

function setSearchPath(config, names, run) {
  if (names === undefined) {
    delete config.searchPath;
  } else if (!run.target.schema.includes('"')) {
    config.searchPath = names;
  } else {
    // Some versions of Knex do not look into the names that they put quotes
    // around.
    delete config.searchPath;
    run.settings = [run.settings, 'SET search_path TO ' + names.map((name) => '"' + name.replaceAll('"', '""') + '"').join(', ')].filter(Boolean).join('; ');
  }
}

function searchPath(own, target) {
  if (!target.schema) {
    if (own.searchPath === undefined) return undefined;
    const first = searchPathOf(own.searchPath)[0];
    if (['public', '$user', '"$user"'].includes(first)) return own.searchPath;
    throw new Error(`${relative(project.knexfile)} has the searchPath ${stringify(own.searchPath)}, and the tenant has no schema: give the tenant the schema ${first}, so that Skein looks there too`);
  }
  const rest = target.options.search_path === undefined ? 'public' : target.options.search_path;
  return [target.schema, ...splitPath(rest)];
}

// splitPath splits a search path at its commas, as PostgreSQL reads it.
function splitPath(text) {
  const names = [];
  for (const m of text.matchAll(/"((?:[^"]|"")*)"|([^\s,]+)/g)) names.push(m[1] !== undefined ? m[1] : m[2].toLowerCase());
  return names;
}

async function postgres(target, given) {
  const o = { ...target.options };
  const connection = { host: target.host, port: target.port, user: target.user, password: target.password, database: target.database };
  const mode = o.sslmode || 'prefer';
  const files = {};
  for (const [option, key] of [['sslrootcert', 'ca'], ['sslcert', 'cert'], ['sslkey', 'key']]) {
    if (o[option]) files[key] = fs.readFileSync(o[option], 'utf8');
  }
  if (o.sslpassword) files.passphrase = o.sslpassword;
  const anyName = () => undefined;
  switch (mode) {
    case 'disable':
      connection.ssl = false;
      break;
    case 'verify-full':
      connection.ssl = { ...files, rejectUnauthorized: true };
      break;
    case 'verify-ca':
      connection.ssl = { ...files, rejectUnauthorized: true, checkServerIdentity: anyName };
      break;
    case 'require':
      connection.ssl = { ...files, rejectUnauthorized: !!files.ca, checkServerIdentity: anyName };
      break;
    default:
      if (given.ssl !== undefined || target.host.startsWith('/')) break;
      connection.ssl = (await serverHasTLS(target)) ? { ...files, rejectUnauthorized: false } : false;
  }
  if (+o.connect_timeout > 0) connection.connectionTimeoutMillis = o.connect_timeout * 1000;
  const parameters = [];
  for (const name of Object.keys(o)) {
    if (/^(ssl.*|channel_binding|require_auth|target_session_attrs|connect_timeout|(min|max)_protocol_version|krb.*|search_path)$/.test(name)) continue;
    if (name === 'application_name') connection.application_name = o[name];
    else parameters.push(`-c ${name}=${o[name].replace(/([\\ ])/g, '\\$1')}`);
  }
  if (o.search_path && !target.schema) parameters.push(`-c search_path=${o.search_path.replace(/([\\ ])/g, '\\$1')}`);
  if (parameters.length) connection.options = parameters.join(' ');
  return connection;
}

// serverHasTLS asks a PostgreSQL server, once: the driver knows no sslmode that
// goes on without TLS where the server has none.
function serverHasTLS({ host, port }) {
  const key = host + ':' + port;
  if (!project.ssl.has(key)) {
    project.ssl.set(key, new Promise((resolve) => {
      const socket = net.connect(port, host, () => socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])));
      let answer;
      socket.setTimeout(10000, () => socket.destroy());
      socket.once('data', (data) => {
        answer = data[0] === 0x53;
        socket.destroy();
      });
      socket.once('error', () => {}); // the connection itself will say why
      socket.once('close', () => {
        if (answer === undefined) project.ssl.delete(key); // it did not say
        resolve(answer === true);
      });
    }));
  }
  return project.ssl.get(key);
}

function mysql(target, given) {
  const o = target.options;
  const connection = { user: target.user, password: target.password, database: target.database };
  if (target.host.startsWith('/')) connection.socketPath = target.host;
  else Object.assign(connection, { host: target.host, port: target.port });
  const ssl = {};
  for (const [option, key] of [['ssl-ca', 'ca'], ['ssl-cert', 'cert'], ['ssl-key', 'key']]) {
    if (o[option]) ssl[key] = fs.readFileSync(o[option], 'utf8');
  }
  const mode = o.tls || (Object.keys(ssl).length ? 'true' : '');
  if (mode === 'true') connection.ssl = { ...ssl, rejectUnauthorized: true };
  else if (mode === 'skip-verify' || (mode === 'preferred' && given.ssl === undefined)) connection.ssl = { ...ssl, rejectUnauthorized: false };
  else if (mode === 'false') connection.ssl = undefined;
  return connection;
}

// pool is the project's, but for its size, and says which sessions there are: a
// query goes on at the server when this process is killed.
function pool(own, run) {
  const { afterCreate } = own;
  const pool = {
    ...own,
    afterCreate(connection, done) {
      const id = connection.processID || connection.threadId;
      if (id) send({ t: 'session', id: String(id) });
      const next = (err) => {
        if (err || !afterCreate) done(err, connection);
        else afterCreate(connection, done);
      };
      if (run.settings && typeof connection.query === 'function') connection.query(run.settings, next);
      else next();
    },
  };
  if (run.engine === 'sqlite') return pool; // Knex has one connection there
  // One more than a transaction and what runs beside it would do; with one
  // alone, a migration that uses knex within knex.transaction waits for ever.
  return { ...pool, min: 0, max: 4 };
}

// ---- A run ----

async function run(request) {
  tenant = { request, at: -1, errors: new WeakMap(), begun: 0, completed: 0, wanted: [] };
  const t = tenant;
  let knex;
  let answer;
  markOutput('+');
  try {
    const config = await tenantConfig(request);
    const steps = [];
    for (const file of request.files) steps.push({ name: file.name, content: request.record ? nothing : await load(file) });
    if (request.record) config.migrations = withoutHooks(config.migrations);
    // MySQL commits what changes the schema by itself, so that there each
    // migration has to be noted before it begins.
    const atomic = request.engine !== 'mysql' && !config.migrations.disableTransactions && request.direction === 'up' && steps.every((s) => ownTransaction(s.content, false));
    t.atomic = atomic;
    loads(request.engine);
    knex = project.knex(config); // which loads the driver
    watch(knex, t);
    remember();
    if (atomic && !request.record) {
      t.noted = ask({ t: 'begin', atomic: true });
      t.noted.catch(() => {}); // the first migration says it
      // Meanwhile Knex connects. SQLite has room for one who writes.
      if (request.engine === 'sqlite') await t.noted;
    }
    const source = new Source(steps, request, config, t);
    const options = { ...config.migrations, migrationSource: source, disableMigrationsListValidation: true };
    const [, names] = request.direction === 'up' ? await knex.migrate.latest(options) : await knex.migrate.rollback(options, true);
    if (knex.client.version) project.versions.set(request.server, knex.client.version);
    answer = { t: 'done', names };
  } catch (err) {
    answer = { t: 'failed', error: errorOf(err, t) };
  }
  if (t.noted) await t.noted.catch(() => {}); // its answer is not for the next run
  const left = await close(knex, t);
  if (tenant !== t) return; // it has been reported as ended otherwise
  tenant = undefined;
  markOutput('-');
  send({ ...answer, steps: t.at, begun: t.begun, completed: t.completed, left, memory: residentSize() });
}

// nothing is what a migration does that is to be recorded alone.
const nothing = { up: async () => {}, down: async () => {} };

// withoutHooks is the configuration for recording migrations, all in one
// transaction: what the project does before and after each is not done.
function withoutHooks({ beforeAll, beforeEach, afterEach, afterAll, disableTransactions, ...migrations }) {
  return migrations;
}

async function load(file) {
  loads(file.path);
  try {
    return await project.importFile(file.path);
  } catch (err) {
    tenant.loading = file;
    throw err;
  }
}

function ownTransaction(content, disabled) {
  const own = content && content.config && content.config.transaction;
  return typeof own === 'boolean' ? own : !disabled;
}

// A Source gives Knex just the migrations that are to run, in the order in which
// they are.
class Source {
  constructor(steps, request, config, t) {
    this.steps = request.direction === 'up' ? steps : [...steps].reverse(); // a rollback goes from the last to the first
    this.contents = new Map();
    steps.forEach((step, i) => {
      const { content } = step;
      if (content === nothing) {
        this.contents.set(step, content);
        return;
      }
      const wrapped = { config: content.config };
      for (const side of ['up', 'down']) {
        if (typeof content[side] === 'function') {
          const inTransaction = ownTransaction(content, config.migrations.disableTransactions);
          wrapped[side] = (knex) => perform(t, i, () => content[side](knex), inTransaction);
        }
      }
      this.contents.set(step, wrapped);
    });
  }
  async getMigrations() {
    return this.steps;
  }
  getMigrationName(step) {
    return step.name;
  }
  getMigration(step) {
    return this.contents.get(step);
  }
}

// perform runs one migration and says when it begins and ends. One that is not
// part of a transaction with the others begins when Skein has noted it.
function perform(t, i, migration, inTransaction) {
  const begin = () => {
    t.at = i;
    t.begun = t.completed = 0;
    t.running = true;
    t.started = hrtime();
    send({ t: 'start', step: i });
    markLater(String(i));
    return migration();
  };
  const stop = () => {
    t.running = false;
    markLater('+');
  };
  const fail = (err) => {
    stop();
    throw err;
  };
  const end = (value) => {
    stop();
    sendLater({ t: 'end', step: i, micros: Number((hrtime() - t.started) / 1000n) });
    return value;
  };
  if (!t.atomic) {
    return ask({ t: 'begin', step: i, transaction: inTransaction }).then(begin).then(end, fail);
  }
  if (t.noted) {
    const { noted } = t;
    t.noted = undefined;
    return noted.then(begin).then(end, fail);
  }
  let result;
  try {
    result = begin();
  } catch (err) {
    fail(err);
  }
  if (!result || typeof result.then !== 'function') return end(result);
  return Promise.resolve(result).then(end, fail);
}

// ask sends a question and waits for Skein's answer.
function ask(question) {
  return new Promise((resolve, reject) => {
    tenant.wanted.push((reply) => (reply.t === 'go' ? resolve() : reject(Object.assign(new Error(reply.message), { refused: true }))));
    send(question);
  });
}

const control = /^\s*(begin|start transaction|commit|rollback|savepoint|release|set transaction)\b/i;
const reading = new Set(['select', 'first', 'pluck', 'columnInfo']);

// reads says whether a query of Knex's only reads. What it sends to learn
// something (hasTable) has a function for the answer.
const reads = (query) => !!query.output || reading.has(query.method);

// watch counts what the migration under way sends and may change something, and
// keeps which statement an error is of.
function watch(knex, t) {
  const { client } = knex;
  const counts = (query) => t.running && !control.test(query.sql || '') && !reads(query);
  client.on('query', (query) => {
    if (counts(query)) t.begun++;
  });
  client.on('query-response', (_, query) => {
    if (counts(query)) t.completed++;
  });
  client.on('query-error', (err, query) => {
    if (err === null || typeof err !== 'object') return;
    t.errors.set(err, { sql: query.sql, message: cleanMessage(err, query, client) });
  });
}

// cleanMessage is the database's message without the statement that Knex puts
// before it, with values that are nobody's business.
function cleanMessage(err, query, client) {
  if (typeof err.sqlMessage === 'string') return err.sqlMessage;
  const message = String(err.message);
  for (const text of [() => query.sql, () => project.formatQuery(query.sql, query.bindings, undefined, client)]) {
    try {
      const prefix = text() + ' - ';
      if (message.startsWith(prefix)) return message.slice(prefix.length);
    } catch {
      // The next one.
    }
  }
  return message.slice(message.lastIndexOf(' - ') + (message.includes(' - ') ? 3 : 0));
}

// errorOf is an error as Skein wants to know it. Of an error that has others as
// its causes, what the database said is taken from wherever it is.
function errorOf(err, t) {
  const e = { message: firstLine(err), name: err && err.name };
  if (err && err.refused) return { ...e, refused: true };
  if (err && err.looked) e.looked = err.looked;
  if (typeof (err && err.message) !== 'string') e.message = 'it threw ' + inspect(err);
  if (err && err.stripped || t.loading && needsLoader(t.loading.path, err)) e.stripped = true;
  if (t.loading) Object.assign(e, { load: true, file: t.loading.path, message: brief(err) }); // a compiler tells what is wrong in a second line
  for (let cause = err, depth = 0; cause && typeof cause === 'object' && depth < 10; cause = cause.cause, depth++) {
    const known = t.errors.get(cause);
    const driver = known || cause.sqlState || cause.severity || cause.errno !== undefined || cause.syscall || /^SQLITE_/.test(cause.code || '');
    if (driver && e.code === undefined) {
      e.database = true;
      if (known) {
        e.statement = known.sql;
        e.message = (cause === err ? '' : firstLine(err) + ': ') + known.message;
      }
      e.code = t.request.engine === 'mysql' && typeof cause.errno === 'number' && cause.errno > 0 ? String(cause.errno) : typeof cause.code === 'string' ? cause.code : '';
      e.syscall = typeof cause.syscall === 'string' ? cause.syscall : undefined;
      for (const key of ['detail', 'hint']) if (typeof cause[key] === 'string') e[key] = cause[key];
    }
    Object.assign(e, { ...place(cause, t), ...e });
  }
  return e;
}

function inspect(value) {
  try {
    return require('util').inspect(value, { depth: 2, breakLength: Infinity });
  } catch {
    return typeof value;
  }
}

// place is where in the migrations' files, or else in the project, an error
// comes from.
function place(err, t) {
  const files = new Map((t ? t.request.files : []).map((f) => [f.path, f]));
  let outside;
  for (const stack of [err.stack, err.originalStack]) {
    if (typeof stack !== 'string') continue;
    for (const m of stack.matchAll(/((?:file:\/\/)?(?:\/|[A-Za-z]:\\)[^\n()]*?):(\d+)(?::\d+)?(?=[):\s]|$)/g)) {
      let file = m[1];
      try {
        if (file.startsWith('file://')) file = fileURLToPath(file);
      } catch {
        continue;
      }
      if (files.has(file)) return { file, line: +m[2] };
      if (!outside && project.options.dir && file.startsWith(project.options.dir + path.sep) && !file.includes('node_modules') && file !== __filename) outside = { file, line: +m[2] };
    }
  }
  return outside || {};
}

// close ends the run's connections and says what the run left behind.
async function close(knex, t) {
  let left = '';
  if (knex) {
    const ended = await new Promise((resolve) => {
      const timer = setTimeout(resolve, 2000, false);
      const end = () => {
        clearTimeout(timer);
        resolve(true);
      };
      knex.destroy().then(end, end);
    });
    if (!ended) left = 'a transaction or connection that was not ended';
  }
  const found = await recall();
  return left || found;
}

// ---- What a run may change for the next one ----

let before;

// What a tenant's run left is what the next one finds, unless something is loaded
// between them for the first time.
let unchanged;
const loaded = new Set();

function loads(what) {
  if (loaded.has(what)) return;
  loaded.add(what);
  unchanged = undefined;
}

const shared = [
  globalThis, Object, Object.prototype, Function.prototype, Array, Array.prototype, String, String.prototype, Number, Number.prototype,
  Boolean.prototype, Symbol.prototype, Date, Date.prototype, Promise, Promise.prototype, RegExp.prototype, Error, Error.prototype, Map.prototype,
  Set.prototype, JSON, Math, Reflect, console, process, fs,
];
const changing = new Set(['exitCode', 'title', 'debugPort', 'domain', '_exiting', 'env', 'argv', 'mainModule', 'stackTraceLimit', '_preload_modules', 'exit', 'abort', '_events', '_eventsCount', 'stdin', 'stdout', 'stderr', '_stdout', '_stderr', '_stdin']);

// remember keeps what the world is like before a run, with all that its files
// do when they are loaded.
function remember() {
  before = {
    globals: unchanged || shared.map(properties),
    env: { ...process.env },
    resources: countResources(),
  };
}

function properties(object) {
  const kept = new Map();
  for (const key of Reflect.ownKeys(object)) {
    if (watched(object, key)) kept.set(key, valueAt(object, key));
  }
  return kept;
}

// Under symbols Node and libraries keep what they share.
function watched(object, key) {
  return !changing.has(key) && (object !== globalThis || typeof key !== 'symbol');
}

// Some properties are made when they are first looked at; then they are values.
function valueAt(object, key) {
  const d = Reflect.getOwnPropertyDescriptor(object, key);
  return d.get ? undefined : d.value;
}

// difference says how an object differs from what its properties were.
function difference(object, was) {
  let found = 0;
  for (const key of Reflect.ownKeys(object)) {
    if (!watched(object, key)) continue;
    if (!was.has(key)) return `the global ${String(key)}`;
    found++;
    const old = was.get(key);
    const value = valueAt(object, key);
    if (old === undefined) was.set(key, value);
    else if (!Object.is(old, value)) return `the changed global ${String(key)}`;
  }
  if (found === was.size) return '';
  const now = properties(object);
  return `the removed global ${String([...was.keys()].find((key) => !now.has(key)))}`;
}

function countResources() {
  return process.getActiveResourcesInfo ? process.getActiveResourcesInfo().filter((r) => r !== 'Immediate').length : 0;
}

// recall sets back what can be, and names what cannot.
async function recall() {
  if (!before) return '';
  const was = before;
  before = undefined;
  if (process.cwd() !== project.options.dir) process.chdir(project.options.dir);
  for (const name of Object.keys(process.env)) if (!(name in was.env)) delete process.env[name];
  for (const name of Object.keys(was.env)) if (process.env[name] !== was.env[name]) process.env[name] = was.env[name];
  for (let i = 0; i < shared.length; i++) {
    const changed = difference(shared[i], was.globals[i]);
    if (changed) return changed;
  }
  unchanged = was.globals;
  // Sockets that were closed are gone a few turns later.
  for (let turn = 0; countResources() > was.resources; turn++) {
    if (turn === 30) return 'an open connection or timer';
    await new Promise((resolve) => (turn < 10 ? setImmediate(resolve) : setTimeout(() => setImmediate(resolve), 5)));
  }
  return '';
}

// ---- The process ----

function unready(err) {
  if (!project) project = { options: {} };
  send({ t: 'unready', error: errorOf(err, { request: { files: [] }, errors: new WeakMap() }) });
}

// broken reports what ends this process in the middle of a run.
function broken(kind, err) {
  if (opening) {
    unready(err);
  } else if (tenant) {
    const t = tenant;
    tenant = undefined;
    send({ t: 'broken', kind, error: t.ended ? t.ended(err) : errorOf(err, t), steps: t.at, begun: t.begun, completed: t.completed });
  }
  leave();
}

process.exit = (code) => {
  const here = new Error(`process.exit(${code === undefined ? '' : code}) was called`);
  broken('exit', here);
};
process.abort = () => broken('exit', new Error('process.abort() was called'));
process.on('uncaughtException', (err) => broken('exception', err));
process.on('unhandledRejection', (err) => broken('rejection', err));
// The terminal's interrupt is for Skein, which lets what has begun end.
for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => {});

async function receive(message) {
  switch (message.t) {
    case 'open':
      token = message.token;
      opening = true;
      try {
        await open(message);
        send({ t: 'ready', node: process.version, knex: project.version });
      } catch (err) {
        unready(err);
      }
      opening = false;
      return;
    case 'describe':
      send({ t: 'config', config: describe() });
      return;
    case 'run':
      await run(message);
      return;
    case 'preview':
      await preview(message);
      return;
    default: {
      const next = tenant && tenant.wanted.shift();
      if (next) next(message);
    }
  }
}

const input = new net.Socket({ fd: 3, readable: true, writable: false });
let pending = '';
input.setEncoding('utf8');
input.on('data', (text) => {
  const lines = (pending + text).split('\n');
  pending = lines.pop();
  for (const line of lines) receive(parse(line));
});
// Skein is gone: without its lock nothing may go on here.
input.on('close', () => reallyExit(1));
