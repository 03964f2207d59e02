package mysql

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
)

// A wire is the network connection below the driver's. It notes what the
// server says of itself in its greeting, which the driver reads and forgets and
// which would cost a round trip to ask for.
//
// The greeting (protocol version 10) is a header of four bytes, the byte 10,
// the server's version up to a zero byte, and the session's id in four bytes:
// https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html
type wire struct {
	net.Conn
	greeting []byte
	greeted  bool

	// id is what the server calls the session; 0 if it did not say.
	id uint32
	// mariaDB says that the server is MariaDB, or claims to be.
	mariaDB bool
	// version is what it calls its version.
	version string
}

// tooOld says that the server's version is too old, empty if it is not, or if
// the server does not say.
func (w *wire) tooOld() string {
	product, oldest := "MySQL", [2]int{5, 7}
	// MariaDB from 10 to 10.11 puts a version of MySQL before its own, which old
	// replicas want to see.
	version := strings.TrimPrefix(w.version, "5.5.5-")
	if w.mariaDB {
		product, oldest = "MariaDB", [2]int{10, 2}
	}
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 {
		return ""
	}
	if major > oldest[0] || major == oldest[0] && minor >= oldest[1] {
		return ""
	}
	return fmt.Sprintf("%s %s, which is older than %d.%d, the oldest", product, version, oldest[0], oldest[1])
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if !w.greeted {
		w.greet(b[:n])
	}
	return n, err
}

func (w *wire) greet(b []byte) {
	const header, version = 4, 4 + 1 // where they end, and the version begins
	w.greeting = append(w.greeting, b...)
	if len(w.greeting) <= header {
		return
	}
	if w.greeting[header] != 10 {
		w.greeted, w.greeting = true, nil // a refusal, or a stranger
		return
	}
	rest := w.greeting[version:]
	end := bytes.IndexByte(rest, 0)
	if end < 0 || len(rest) < end+1+4 {
		return
	}
	w.version = string(rest[:end])
	w.mariaDB = strings.Contains(w.version, "MariaDB")
	w.id = binary.LittleEndian.Uint32(rest[end+1:])
	w.greeted, w.greeting = true, nil
}
