package knex

// The messages between a Runner and a worker, each a line of JSON. Skein's go to
// the worker's descriptor 3. The worker's come from its descriptor 4, each
// behind the token that the open message gave it. A worker answers
//
//	open      with ready, or unready
//	describe  with config
//	run       with done, failed or broken, and before that with any number of
//	          session (a session at the server began), begin (which waits for
//	          go or stop), start and end (of a step)
//	preview   with preview, or broken
//
// After broken, and when its descriptor 3 is closed, the worker exits.

type typeMessage struct {
	Type string `json:"t"`
}

// openMessage says where the project is.
type openMessage struct {
	Type     string `json:"t"`
	Token    string `json:"token"`
	Dir      string `json:"dir"`
	Knexfile string `json:"knexfile"`
	Env      string `json:"env"`
}

// runMessage is a run. It holds the tenant's password.
type runMessage struct {
	Type      string        `json:"t"`
	Engine    string        `json:"engine"`
	Server    string        `json:"server"` // skein.Target.Server
	Target    targetMessage `json:"target"`
	Direction string        `json:"direction"`
	Record    bool          `json:"record"` // the files are not loaded, and there is no begin, start and end
	Files     []fileMessage `json:"files"`
	Table     string        `json:"table"`
	Settings  string        `json:"settings"` // SQL for each new session
}

// previewMessage asks for the SQL of one side of a migration.
type previewMessage struct {
	Type      string      `json:"t"`
	Engine    string      `json:"engine"`
	Direction string      `json:"direction"`
	File      fileMessage `json:"file"`
}

type targetMessage struct {
	Host     string            `json:"host"`
	Port     int               `json:"port"`
	Database string            `json:"database"`
	Schema   string            `json:"schema"`
	User     string            `json:"user"`
	Password string            `json:"password"`
	Options  map[string]string `json:"options"`
}

type fileMessage struct {
	Name string `json:"name"`
	Path string `json:"path"` // absolute, without links; empty where the file is not loaded
}

// A stopMessage answers a begin that may not be.
type stopMessage struct {
	Type    string `json:"t"`
	Message string `json:"message"`
}

// A message is what a worker says.
type message struct {
	Type string `json:"t"`

	// Of begin, start and end: the step, by its number in the run. A begin of
	// steps that are one transaction is of all of them.
	Step int `json:"step"`
	// Of begin: what the step, or all of them, are in.
	Atomic      bool `json:"atomic"`
	Transaction bool `json:"transaction"`
	// Of end.
	Micros int64 `json:"micros"`
	// Of session: the database's own id for it.
	ID string `json:"id"`

	// Of done, failed and broken: the last step that began, -1 for none; the
	// statements that it sent, and those that succeeded.
	Last      int `json:"steps"`
	Begun     int `json:"begun"`
	Completed int `json:"completed"`
	// Of done and failed: what the run has left behind that the next one would
	// meet, and how much memory the worker has, in bytes.
	Left   string `json:"left"`
	Memory int64  `json:"memory"`

	// Of preview; it has Transaction, too.
	Statements []string `json:"statements"`

	// Of failed, broken, unready, and a preview that is not whole.
	Error *errorMessage `json:"error"`
	// Of broken: exit, exception or rejection.
	Kind string `json:"kind"`

	Config Config `json:"config"`
}

// An errorMessage is what broke.
type errorMessage struct {
	Name    string `json:"name"`
	Message string `json:"message"` // the first line, without the statement
	// File and Line are where in the migration, or else in the project, it came
	// from, if that is known.
	File string `json:"file"`
	Line int    `json:"line"`

	// Database says that it came from a database or its driver.
	Database  bool   `json:"database"`
	Code      string `json:"code"`
	Syscall   string `json:"syscall"` // of an error of the network
	Detail    string `json:"detail"`
	Hint      string `json:"hint"`
	Statement string `json:"statement"` // with placeholders

	Refused bool     `json:"refused"` // the answer to begin was stop
	Looked  []string `json:"looked"`  // the folders in which knex was not
	Load    bool     `json:"load"`    // it came when the file was loaded
	// Stripped says that the file is TypeScript of which Node by itself takes the
	// types out, and that this may be why it could not be loaded.
	Stripped bool `json:"stripped"`
	Ended    bool `json:"ended"` // a preview: the message says what the migration does that ends it
}
