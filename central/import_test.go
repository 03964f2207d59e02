package central

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skeinhq/skein"
	"github.com/skeinhq/skein/secret"
)

func TestImport(t *testing.T) {
	acme := skein.Tenant{
		ID: "t-1", Slug: "acme", Name: "Acme, Inc.", Status: skein.StatusActive, Active: true,
		Labels: map[string]string{"tier": "gold"},
		Target: skein.Target{
			Engine: skein.PostgreSQL, Host: "db1", Port: 5433, Database: "acme", Schema: "s", User: "app",
			Password: secret.New(` S3cret "word" `), Options: map[string]string{"sslmode": "require"},
		},
	}
	beta := skein.Tenant{
		Slug: "beta", Status: skein.StatusSuspended,
		Target: skein.Target{Engine: skein.MySQL, Host: "db2", Database: "beta", User: "b", Password: secret.New("S3cret-2")},
	}
	gamma := skein.Tenant{
		Slug: "gamma", Status: skein.StatusActive, Active: true,
		Target: skein.Target{Engine: skein.SQLite, Database: "data/gamma.db"},
	}
	for _, c := range []struct {
		name   string
		format Format
		text   string
	}{
		{"csv", CSV, "\ufeffslug,id,name,status,engine,host,port,database,schema,user,password,url,options,label:tier\r\n" +
			`acme,t-1,"Acme, Inc.",,pg,db1,5433,acme,s,app," S3cret ""word"" ",,"{""sslmode"": ""require""}",gold` + "\r\n" +
			"\r\n" +
			"beta,,,suspended,,,,,,,,mysql://b:S3cret-2@db2/beta,,\r\n" +
			" gamma ,,,Active,sqlite,,,data/gamma.db,,,,,,"},
		{"jsonl", JSONLines, `{"slug": "acme", "id": "t-1", "name": "Acme, Inc.", "engine": "pg", "host": "db1", "port": 5433, "database": "acme",` +
			`"schema": "s", "user": "app", "password": " S3cret \"word\" ", "options": {"sslmode": "require"}, "labels": {"tier": "gold"}}` + "\n\n" +
			`{"slug":"beta","status":"suspended","url":"mysql://b:S3cret-2@db2/beta","name":null,"options":null}` + "\n" +
			`{"slug":"gamma","engine":"sqlite","database":"data/gamma.db"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, f *fixture) {
				s := f.own(t)
				n, err := s.Import(t.Context(), strings.NewReader(c.text), c.format)
				if err != nil || n != 3 {
					t.Fatalf("Import = %d, %v", n, err)
				}
				got, err := collect(s.Tenants(t.Context(), Filter{Order: BySlug}))
				if err != nil {
					t.Fatal(err)
				}
				for i := range got[1:] { // made by Skein
					if len(got[i+1].ID) != 36 {
						t.Errorf("id %q", got[i+1].ID)
					}
					got[i+1].ID = ""
				}
				if diff := cmp.Diff([]skein.Tenant{acme, beta, gamma}, got); diff != "" {
					t.Errorf("tenants (-want +got):\n%s", diff)
				}
				if n := f.value(t, "SELECT COUNT(*) FROM skein_tenants WHERE password LIKE '%S3cret%' OR options LIKE '%S3cret%'"); n != "0" {
					t.Error("a password is stored in clear")
				}
			})
		})
	}
}

func TestImportRefuses(t *testing.T) {
	s := sqliteStore(t)
	taken := at("taken", "h")
	taken.ID = "id-1"
	add(t, s, taken)
	for _, c := range []struct {
		name   string
		format Format
		text   string
		want   string
	}{
		{"empty", CSV, "", "line 1: there is no header line"},
		{"unknown column", CSV, "slug,hots\n", `line 1: there is no column "hots": is it host?`},
		{"semicolons", CSV, "slug;host\n", "line 1: the first line is no header with commas between the names of the columns, which are id, slug, name, status, url, engine, host, port, database, schema, user, password, options, label:NAME"},
		{"twice", CSV, "slug,host,slug\n", `line 1: the column "slug" is there twice`},
		{"no slug", CSV, "host\n", "line 1: there is no column slug"},
		{
			"many", CSV, "slug,engine,host,port,database,password\n" +
				"a,postgres,h,1,d,S3cret\n" +
				"b,oracle,h,1,d,S3cret\n" +
				"\"c\nd\",postgres,h,1,d,S3cret\n" +
				"e,postgres,h,S3cret,d,x\n" +
				"f,postgres,h,1\n" +
				"taken,postgres,h,1,d,S3cret\n" +
				"id-1,postgres,h,1,d,S3cret\n" +
				"a,postgres,h,1,d,S3cret\n" +
				",postgres,h,1,d,S3cret\n" +
				"g,postgres,h,1,,S3cret\n",
			`line 3: engine: it is not one of postgres, mysql, sqlite
line 4: slug: it has the character '\n': allowed are letters, digits, -, _ and .
line 6: port: it is not a number from 1 to 65535
line 7: it has 4 fields, and the header 6
line 8: slug: there is a tenant taken already (id id-1)
line 9: slug: id-1 is the id of tenant taken
line 10: slug: a is in line 2 already
line 11: slug: no slug is given: it is the tenant's short name, such as acme
line 12: database: no database is given`,
		},
		{"quote", CSV, "slug,password\na,\"S3cret\nb,x", "line 2: a quote is missing or in a wrong place (line 3, column 4)"},
		{"URL and host", CSV, "slug,url,host\na,postgres://db1/a,db2\n", "line 2: host: the URL says something else"},
		{"two passwords", CSV, "slug,url,password\na,postgres://u:S3cret@db1/a,S3cret2\n", "line 2: password: the URL says something else"},
		{"password for URL", CSV, "slug,url\na,u:S3cret@db1/a\n", "line 2: url: it is not the address of a database: that starts with postgres://, mysql:// or sqlite:PATH"},
		{"SQLite's password", CSV, "slug,url,password\na,sqlite:a.db,S3cret\n", "line 2: engine: a SQLite file has no host, port, user or password"},
		{"options", CSV, "slug,url,options\na,mysql://db1/a,S3cret\n", `line 2: options: it is not a JSON object, such as {"sslmode": "require"}`},
		{
			"lines", JSONLines, `{"slug": "a", "url": "sqlite:a.db"}` + "\n" +
				`{"slug": "b", "password": S3cret}` + "\n" +
				`["S3cret"]` + "\n" +
				`{"slug": "c", "hots": "S3cret"}` + "\n" +
				`{"slug": "d", "labels": "S3cret"}` + "\n" +
				`{"slug": "e", "labels": {"a": {"b": "S3cret"}}}` + "\n" +
				`{"slug": "f", "port": ["S3cret"]}` + "\n" +
				`{"slug": "a", "url": "sqlite:b.db"}` + "\n" +
				`{"slug": "g", "id": "a", "url": "sqlite:b.db"}`,
			`line 2: it is not JSON from column 27 on
line 3: it is not a JSON object
line 4: there is no key "hots": is it host?
line 5: labels: it is not an object
line 6: label a: it is not a text, a number, true or false
line 7: port: it is not a text or a number
line 8: slug: a is in line 1 already
line 9: id: a is in line 1 already`,
		},
		{"long line", JSONLines, "\n" + `{"slug": "` + strings.Repeat("x", maxLine) + `"}`, "line 2: it is longer than 1048576 bytes"},
	} {
		n, err := s.Import(t.Context(), strings.NewReader(c.text), c.format)
		if err == nil || err.Error() != c.want || n != 0 {
			t.Errorf("%s: %d and\n%v\nwant\n%s", c.name, n, err, c.want)
		}
		if strings.Contains(fmt.Sprint(err), "S3cret") {
			t.Errorf("%s: a password is in the error", c.name)
		}
	}
	if got := slugs(t, s, Filter{}); got != "taken" {
		t.Errorf("there are %s, want what was there before", got)
	}

	broken := errors.New("the disk is gone")
	in := io.MultiReader(strings.NewReader("slug,url\na,sqlite:a.db\n"), iotest.ErrReader(broken))
	if _, err := s.Import(t.Context(), in, CSV); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	if _, err := s.Import(t.Context(), strings.NewReader(""), "xml"); err == nil || !strings.Contains(err.Error(), `"xml" is not one of csv, jsonl`) {
		t.Errorf("error %v", err)
	}
}

// A list that is bad far down leaves nothing, and all of it is checked.
func TestImportAllOrNothing(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		s := f.own(t)
		add(t, s, at("t1800", "h"))
		var b strings.Builder
		b.WriteString("slug,engine,host,database,label:n\n")
		for i := range 2000 {
			slug := fmt.Sprintf("t%d", i)
			if i >= 1500 && i%10 == 1 {
				slug = "bad slug"
			}
			fmt.Fprintf(&b, "%s,postgres,h,d%d,%d\n", slug, i, i)
		}
		_, err := s.Import(t.Context(), strings.NewReader(b.String()), CSV)
		e, ok := errors.AsType[*ImportError](err)
		if !ok {
			t.Fatalf("error %v", err)
		}
		if len(e.Problems) != 20 || e.More != 31 || e.Problems[0].Line != 1503 || e.Problems[19].Line != 1693 {
			t.Errorf("%d problems and %d more: %v", len(e.Problems), e.More, e)
		}
		if !strings.HasSuffix(e.Error(), "\nand 31 more") {
			t.Errorf("error %q", e.Error())
		}
		if got := slugs(t, s, Filter{}); got != "t1800" {
			t.Errorf("there are %d tenants", len(strings.Fields(got)))
		}
		if n := f.value(t, "SELECT COUNT(*) FROM skein_tenant_labels"); n != "0" {
			t.Errorf("%s labels are left", n)
		}
	})
}

// A hundred thousand tenants are imported in one go and listed in little memory.
// TestManyTenants reads a list in far less memory than it would take as a whole.
// The command line's tests do the same with 100,000 tenants and a program that
// is not built for finding races, which makes SQLite many times slower.
func TestManyTenants(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		const n = 20_000
		s := f.own(t)
		r, w := io.Pipe()
		go func() {
			_, err := io.WriteString(w, "slug,engine,host,port,database,user,password,label:tier\n")
			for i := 0; i < n && err == nil; i++ {
				_, err = fmt.Fprintf(w, "tenant-%06d,postgres,db%d.internal,5432,tenant_%06d,user_%06d,a-password-%06d,%s\n",
					i, i*40/n, i, i, i, []string{"free", "gold"}[i%2])
			}
			_ = w.CloseWithError(err) // nil is io.EOF
		}()
		start := time.Now()
		if got, err := s.Import(t.Context(), r, CSV); err != nil || got != n {
			t.Fatalf("Import = %d, %v", got, err)
		}
		t.Logf("imported in %s", time.Since(start))

		for _, filter := range []Filter{{Active: true}, {Order: BySlug}} {
			peak := watchHeap(t)
			start = time.Now()
			survey, err := s.Survey(t.Context(), filter)
			if err != nil || survey.Tenants != n {
				t.Errorf("Survey = %v, %v", survey, err)
			}
			t.Logf("%+v: surveyed in %s", filter, time.Since(start))
			start = time.Now()
			count := 0
			for tenant, err := range s.Tenants(t.Context(), filter) {
				if err != nil || tenant.Err != nil {
					t.Fatal(err, tenant.Err)
				}
				count++
			}
			grown := peak()
			t.Logf("listed in %s, the heap has grown by %d MB", time.Since(start), grown>>20)
			if count != n {
				t.Errorf("%d tenants, want %d", count, n)
			}
			if grown > 32<<20 {
				t.Errorf("the heap has grown by %d MB", grown>>20)
			}
		}
		start = time.Now()
		_, err := s.Find(t.Context(), "tenant-00499")
		wantError(t, err, "close to it: tenant-0")
		t.Logf("not found in %s", time.Since(start))
	})
}

// watchHeap returns a function that ends the watch and says by how many bytes
// the heap's live part has grown at most.
func watchHeap(t *testing.T) func() uint64 {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var peak uint64
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
				peak = max(peak, heap())
			}
		}
	})
	return func() uint64 {
		close(done)
		wg.Wait()
		return peak - min(peak, before)
	}
}
