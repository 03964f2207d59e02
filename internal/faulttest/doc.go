// Package faulttest breaks things while Skein is at work, and looks whether
// everything comes right in the end: connections are cut at each point of the
// conversation with a server, processes are killed, servers crash. It has only
// tests; see docs/reliability.md.
package faulttest
