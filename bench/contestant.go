package main

import "context"

// A step is what a contestant does for one operation: processes that together
// serve so many tenants.
type step struct {
	who      string // the contestant's name, if it has another one for this
	commands []command
	atOnce   int // processes
	tenants  int
}

// A contestant is a tool, used in one way.
type contestant interface {
	// name is as in the tables.
	name() string

	// parallel is how many tenants are worked on at once.
	parallel() int

	// whole says whether it goes over the whole fleet where there is nothing to do,
	// or over a part like the others.
	whole() bool

	// steps are what it does for an operation on tenants that are in the state
	// which the operations before have left; none where it has no such thing.
	steps(ctx context.Context, f fleet, o operation, tenants []tenant) ([]step, error)
}

// forAll is one process for all tenants.
func forAll(who string, tenants int, c command) step {
	return step{who: who, commands: []command{c}, atOnce: 1, tenants: tenants}
}
