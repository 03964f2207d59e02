package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// An account is how a server's administrator logs in.
type account struct {
	Host     string
	Port     int
	User     string
	Password string
}

func (a account) address() string { return a.Host + ":" + strconv.Itoa(a.Port) }

// servers are a PostgreSQL and a MariaDB that belong to the benchmark.
type servers struct {
	dir      string
	postgres account
	mysql    account
	stop     func() error
}

// startServers starts them with scripts/servers, or takes those that were started in
// dir.
func startServers(ctx context.Context, script, dir, work string) (*servers, error) {
	s := &servers{dir: dir, stop: func() error { return nil }}
	if dir == "" {
		s.dir = filepath.Join(work, "servers")
		start := command{Args: []string{script, "start", s.dir}, Env: []string{"SKEIN_SERVERS=durable"}}
		if _, err := start.output(ctx); err != nil {
			return nil, fmt.Errorf("start servers: %w", err)
		}
		s.stop = func() error {
			// They are to be stopped even where ctx has ended.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if _, err := (command{Args: []string{script, "stop", s.dir}}).output(ctx); err != nil {
				return fmt.Errorf("stop servers: %w", err)
			}
			return nil
		}
	}
	if err := s.readAccounts(); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *servers) readAccounts() error {
	text, err := os.ReadFile(filepath.Join(s.dir, "env"))
	if err != nil {
		return fmt.Errorf("read the servers' addresses: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		var to *account
		switch name {
		case "SKEIN_TEST_POSTGRES":
			to = &s.postgres
		case "SKEIN_TEST_MYSQL":
			to = &s.mysql
		default:
			continue
		}
		u, err := url.Parse(value)
		if err != nil {
			return errors.New("read the servers' addresses: " + name + " is no URL")
		}
		password, _ := u.User.Password()
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			return errors.New("read the servers' addresses: " + name + " has no port")
		}
		*to = account{Host: u.Hostname(), Port: port, User: u.User.Username(), Password: password}
	}
	if s.postgres.Port == 0 || s.mysql.Port == 0 {
		return fmt.Errorf("read the servers' addresses: %s lacks one", filepath.Join(s.dir, "env"))
	}
	return nil
}

// pid reads the number of a server's first process from a file in its folder.
func (s *servers) pid(file string) (int, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		return 0, fmt.Errorf("find a server's process: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return 0, fmt.Errorf("find a server's process: %w", err)
	}
	return pid, nil
}
