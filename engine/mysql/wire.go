package mysql

import (
	"bytes"
	"encoding/binary"
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
	w.mariaDB = strings.Contains(string(rest[:end]), "MariaDB")
	w.id = binary.LittleEndian.Uint32(rest[end+1:])
	w.greeted, w.greeting = true, nil
}
