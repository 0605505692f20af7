//go:build unix

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// needPostgres finds a program of PostgreSQL, which Debian keeps by version.
func needPostgres(t testing.TB, name, debian string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return needProgram(t, name, debian)
	}
	return slices.Max(found)
}

// newPostgres runs a cluster of its own, and returns its address. Anybody is its user postgres.
func newPostgres(t testing.TB) string {
	t.Helper()
	initdb, postgres := needPostgres(t, "initdb", "postgresql"), needPostgres(t, "postgres", "postgresql")
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // for the user below
	data := filepath.Join(dir, "data")
	must(t, os.Mkdir(data, 0o700))
	as := serviceUser()
	if as != nil {
		must(t, os.Chown(data, 65534, 65534))
	}
	visitor{dir: "/"}.run(t, slices.Concat(as, []string{initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"})...)
	private, addr := privatePort(t)
	serve(t, syscall.SIGINT, addr, slices.Concat(as, []string{postgres, "-D", data, "-p", private, "-k", "", "-c", "listen_addresses=127.0.0.1",
		"-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "max_connections=20"})...)
	return addr
}

// TestPostgreSQL queries, runs pgbench, and copies many rows out and in.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	psql, pgbench := needProgram(t, "psql", "postgresql-client"), needPostgres(t, "pgbench", "postgresql")
	addr := newPostgres(t)
	const rows = 200_000
	bothWays(t, addr, func(t *testing.T, port string) string {
		var results []string
		login := []string{"-h", "127.0.0.1", "-p", port, "-U", "postgres"}
		query := func(v visitor, sql string) string {
			t.Helper()
			out := v.run(t, slices.Concat([]string{psql, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"}, login, []string{"-c", sql, "postgres"})...)
			results = append(results, out)
			return strings.TrimSpace(out)
		}
		eventually(t, func() error { // it listens before it is ready
			code, _ := visitor{}.exit(t, slices.Concat([]string{psql, "-X", "-c", "SELECT"}, login, []string{"postgres"})...)
			if code != 0 {
				return fmt.Errorf("psql: %d", code)
			}
			return nil
		})
		query(visitor{}, "SELECT version(), count(*) FROM generate_series(1, 1000)")

		out := sha256.New()
		query(visitor{out: out}, fmt.Sprintf("COPY (SELECT i, md5(i::text), repeat('x', i %% 50) FROM generate_series(1, %d) i) TO STDOUT", rows))
		results = append(results, fmt.Sprintf("%x", out.Sum(nil)))

		query(visitor{}, "DROP TABLE IF EXISTS copied; CREATE TABLE copied (i int, t text)")
		r, w := io.Pipe()
		go func() {
			for i := range rows {
				if _, err := fmt.Fprintf(w, "%d\tthis is row %d\n", i, i); err != nil {
					return
				}
			}
			w.Close()
		}()
		query(visitor{in: r}, "COPY copied FROM STDIN")
		r.Close()
		if got, want := query(visitor{}, "SELECT count(*), sum(i), sum(length(t)) FROM copied"), fmt.Sprintf("%d|%d|", rows, rows*(rows-1)/2); !strings.HasPrefix(got, want) {
			t.Errorf("copied in: %s, want %s", got, want)
		}
		query(visitor{}, "SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM copied")

		visitor{}.run(t, slices.Concat([]string{pgbench, "-i", "-q", "-s", "1"}, login, []string{"postgres"})...)
		report := visitor{}.run(t, slices.Concat([]string{pgbench, "-n", "-c", "4", "-t", "50"}, login, []string{"postgres"})...)
		for line := range strings.SplitSeq(report, "\n") {
			if strings.HasPrefix(line, "tps") || strings.HasPrefix(line, "latency") {
				t.Logf("pgbench: %s", line)
			}
		}
		if !strings.Contains(report, "transactions actually processed: 200/200") {
			t.Errorf("pgbench says\n%s", report)
		}
		return strings.Join(results, "\n")
	})
}
