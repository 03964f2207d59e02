package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

// The errors of MySQL and MariaDB that Skein reacts to, by their numbers:
// https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
// https://mariadb.com/kb/en/mariadb-error-code-reference/
const (
	errDatabaseDenied  = 1044
	errLoginDenied     = 1045
	errNoDatabase      = 1049
	errSyntax          = 1064
	errNoColumn        = 1054
	errNoThread        = 1094
	errNotThreadOwner  = 1095
	errCommandDenied   = 1142
	errColumnDenied    = 1143
	errNoTable         = 1146
	errNotRolledBack   = 1196
	errResource        = 1226
	errPrivilegeDenied = 1227
)

var classes = map[uint16]skein.Class{
	errDatabaseDenied:  skein.Denied,
	errLoginDenied:     skein.Denied,
	errCommandDenied:   skein.Denied,
	errColumnDenied:    skein.Denied,
	errPrivilegeDenied: skein.Denied,
	errNotThreadOwner:  skein.Denied,
	1130:               skein.Denied, // the account may not come from this host
	1131:               skein.Denied, // anonymous
	1251:               skein.Denied, // the account's authentication plugin
	1370:               skein.Denied, // of a routine
	1410:               skein.Denied, // may not create users with GRANT
	1419:               skein.Denied, // a trigger, with binary logging
	1524:               skein.Denied, // authentication plugin not loaded
	1698:               skein.Denied, // log in without a password
	1820:               skein.Denied, // the password must be changed first
	1862:               skein.Denied, // the password has expired
	3118:               skein.Denied, // MySQL: the account is locked
	3159:               skein.Denied, // MySQL: TLS is required
	4151:               skein.Denied, // MariaDB: the account is locked

	errNoDatabase: skein.NoDatabase,

	1205: skein.Busy, // waited too long, for a row or for a table's definition
	3572: skein.Busy, // MySQL: NOWAIT

	1040:        skein.Crowded,   // of the server
	1203:        skein.Crowded,   // of the user
	1041:        skein.Transient, // out of memory
	1053:        skein.Transient, // the server shuts down
	1213:        skein.Transient, // deadlock
	errResource: skein.Transient, // the user's resources are used up
	1613:        skein.Transient, // XA: waited too long
	1614:        skein.Transient, // XA: deadlock
	3168:        skein.Transient, // MySQL: not ready yet

	1129: skein.Unreachable, // the host is blocked after too many errors

	1152: skein.ConnectionLost,
	1158: skein.ConnectionLost,
	1159: skein.ConnectionLost,
	1160: skein.ConnectionLost,
	1161: skein.ConnectionLost,
	1184: skein.ConnectionLost,
	1927: skein.ConnectionLost, // MariaDB: it was killed
	4031: skein.ConnectionLost, // MySQL: it was not used for too long
}

const noRoom = "make room on the disk of the server"

// hints say what to do about errors that a person can act on.
var hints = map[uint16]string{
	errLoginDenied:    "check the tenant's user and password, and the hosts that the account may come from",
	errNoDatabase:     "create the database, or correct the tenant's target",
	errNotThreadOwner: "ending another account's session takes the right CONNECTION ADMIN or SUPER",
	1040:              crowdedHint,
	1203:              crowdedHint,
	errResource:       crowdedHint,
	1213:              "it and another session waited for each other again and again: try when less is going on",
	1053:              "the server shuts down: try again when it is up",
	1129:              "an administrator can let the host in again: FLUSH HOSTS",
	1130:              "the account exists for other hosts only",
	1205:              "another session holds the table: try again later, or raise limits.lock_timeout",
	1290:              "the server is read-only, perhaps a replica: connect to the primary",
	1419:              "creating triggers and functions here takes the right SUPER, or log_bin_trust_function_creators on the server",
	1836:              "the server is read-only, perhaps a replica: connect to the primary",
	3:                 noRoom, // a temporary or log file could not be written
	1021:              noRoom,
	1026:              noRoom,
	1114:              "the disk of the server is full, or a limit of the table's size is reached: make room",
	3675:              noRoom, // MySQL: a tablespace could not be made larger
	1969:              "it ran longer than limits.statement_timeout, or than the server's max_statement_time, lets it",
	3024:              "it ran longer than limits.statement_timeout, or than the server's max_execution_time, lets it",
	3159:              "the account takes TLS connections only: set the target's option tls",
}

const (
	crowdedHint     = "lower limits.per_server, or this server's own limit under servers; or let the server, or the account, have more connections"
	unreachableHint = "see whether the server runs there, and can be reached from this machine"
	lostHint        = "the server, or the network to it, ended the connection: see the server's log, and try again"
)

var (
	deniedCommand = regexp.MustCompile(`([A-Z]+(?:,? [A-Z]+)*) command denied`)
	nearLine      = regexp.MustCompile(`(?s)^(.*?) near '(.*)' at line (\d+)$`)
)

// databaseError turns what the driver or the network says into Skein's words,
// without the target's password.
func databaseError(err error, target skein.Target) *skein.DatabaseError {
	answer := &skein.DatabaseError{Class: skein.Permanent, Message: err.Error()}
	var dial *net.OpError
	var resolve *net.DNSError
	if server, ok := errors.AsType[*mysql.MySQLError](err); ok {
		answer.Code, answer.Message = strconv.Itoa(int(server.Number)), server.Message
		if class, ok := classes[server.Number]; ok {
			answer.Class = class
		}
		answer.Hint = hints[server.Number]
		if server.Number == errResource && strings.Contains(server.Message, "max_user_connections") {
			answer.Class = skein.Crowded
		}
		if server.Number == errCommandDenied || server.Number == errDatabaseDenied {
			answer.Hint = grantHint(server.Message, target)
		}
	} else if errors.As(err, &resolve) || errors.As(err, &dial) && dial.Op == "dial" {
		answer.Class = skein.Unreachable
	} else if errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn) {
		answer.Class, answer.Message = skein.ConnectionLost, "the connection to the server was lost"
	} else if errors.As(err, &dial) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrShortWrite) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, mysql.ErrPktSync) || errors.Is(err, mysql.ErrPktSyncMul) || errors.Is(err, mysql.ErrMalformPkt) {
		answer.Class = skein.ConnectionLost
	} else if errors.Is(err, mysql.ErrNoTLS) {
		answer.Class, answer.Message = skein.Unreachable, "the server takes no TLS connections"
		answer.Hint = "turn TLS on at the server, or set the target's option tls to preferred or false"
	} else if errors.Is(err, mysql.ErrCleartextPassword) {
		answer.Class, answer.Message = skein.Denied, "the server wants the password in clear text"
		answer.Hint = "if the connection is encrypted, allow it with the target's option allowCleartextPasswords=true"
	} else if errors.Is(err, mysql.ErrNativePassword) || errors.Is(err, mysql.ErrOldPassword) || errors.Is(err, mysql.ErrUnknownPlugin) {
		answer.Class = skein.Denied
	} else if strings.HasPrefix(answer.Message, "local file ") {
		answer.Message = "LOAD DATA LOCAL is not carried out: a migration reads no files of the machine that Skein runs on"
		answer.Hint = "write the rows as INSERT statements"
	}
	if answer.Hint == "" {
		answer.Hint = map[skein.Class]string{skein.Unreachable: unreachableHint, skein.ConnectionLost: lostHint}[answer.Class]
	}
	answer.Message = secret.Scrub(answer.Message, target.Password)
	return answer
}

// grantHint says which right an administrator would have to give.
func grantHint(message string, target skein.Target) string {
	right := "ALL PRIVILEGES"
	if m := deniedCommand.FindStringSubmatch(message); m != nil {
		right = m[1]
	}
	// In a GRANT, _ and % in a database's name are wildcards.
	database := strings.NewReplacer("_", `\_`, "%", `\%`).Replace(target.Database)
	return fmt.Sprintf("an administrator can give the right: GRANT %s ON %s.* TO %s", right, quoteName(database), quoteName(target.User))
}

// ended says whether err means that ctx ended, and not that the server
// answered.
func ended(ctx context.Context, err error) bool {
	_, answered := errors.AsType[*mysql.MySQLError](err)
	return ctx.Err() != nil && !answered
}
