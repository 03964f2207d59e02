package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// The engines, as Skein calls them.
const (
	postgres = "postgres"
	mysql    = "mysql"
	sqlite   = "sqlite"
)

// schemaFleet is the name of the fleet of schemas; the others are called as their
// engines.
const schemaFleet = "schemas"

// A tenant is where one tenant's data lives. The names in JSON are what
// knex/fleet.js reads.
type tenant struct {
	Slug     string `json:"slug"`
	Engine   string `json:"engine"`
	Host     string `json:"host,omitempty"`
	Port     int    `json:"port,omitempty"`
	Database string `json:"database"`
	Schema   string `json:"schema,omitempty"`
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
}

func slug(i int) string { return fmt.Sprintf("tenant%04d", i+1) }

// url is the address in the form that most tools take; options follow the
// question mark.
func (t tenant) url(options ...string) string {
	if t.Engine == sqlite {
		return "sqlite:" + t.Database
	}
	if t.Engine == postgres {
		// The servers have no TLS; asking for it costs a second connection.
		options = append([]string{"sslmode=disable"}, options...)
		if t.Schema != "" {
			options = append(options, "search_path="+t.Schema)
		}
	}
	u := url.URL{
		Scheme: t.Engine, User: url.UserPassword(t.User, t.Password), Host: t.Host + ":" + strconv.Itoa(t.Port),
		Path: "/" + t.Database, RawQuery: strings.Join(options, "&"),
	}
	return u.String()
}

// mysqlDSN is the address in the form of Go's driver.
func (t tenant) mysqlDSN(options string) string {
	return fmt.Sprintf("%s:%s@tcp(%s:%d)/%s?%s", t.User, t.Password, t.Host, t.Port, t.Database, options)
}

// A fleet is tenants of one kind, on a server that is the benchmark's own. What it
// does is not timed.
type fleet interface {
	// name is short, for flags and files; title is for readers.
	name() string
	title() string
	engine() string

	// prepare makes what outlives a round: n tenants' accounts.
	prepare(ctx context.Context, n int) error

	// tenants are the first n.
	tenants(n int) []tenant

	// create makes the first n anew, each empty.
	create(ctx context.Context, n int) error

	// drop removes all tenants, those that others than create made too.
	drop(ctx context.Context) error

	// settle ends the work that the server has put off.
	settle(ctx context.Context) error

	// shape lists a tenant's tables, columns and indexes, histories left out.
	shape(ctx context.Context, t tenant) (string, error)

	// administrator is the account that can do all; nil where there is no server.
	administrator() *account

	// cpu is what the server has taken so far, in seconds.
	cpu() (float64, error)
}

// crmTables are the tables that the migrations make.
var crmTables = []string{"users", "roles", "user_roles", "object_definitions", "field_definitions", "contacts", "activities"}

// makers is how many databases are made, or dropped, at once.
const makers = 4

// inParallel calls f for 0 to n-1, some at once, until one fails.
func inParallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wait sync.WaitGroup
	for range min(n, makers) {
		wait.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wait.Wait()
	return context.Cause(ctx)
}
