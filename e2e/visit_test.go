//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// needProgram skips a test where a program is absent that it drives.
func needProgram(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is absent, which this test drives: install it (Debian: apt-get install %s)", name, debian)
	}
	return path
}

// reply is an answer as curl shows it.
type reply struct {
	code    int
	proto   string
	header  http.Header
	interim []int // codes of the answers before
	body    string
	trailer http.Header
	exit    int // curl's own
	failure string
}

// curl runs curl with args to its end. It must succeed unless the test looks at exit.
func curl(t testing.TB, args ...string) reply {
	t.Helper()
	return curlWith(t, nil, nil, args...)
}

// curlWith is curl with something to send on its standard input, and somewhere for the body to go, unless nil.
func curlWith(t testing.TB, in io.Reader, out io.Writer, args ...string) reply {
	t.Helper()
	heads := filepath.Join(t.TempDir(), "heads")
	var body, stderr bytes.Buffer
	if out == nil {
		out = &body
	}
	cmd := exec.Command(needProgram(t, "curl", "curl"), append([]string{
		"-sS", "--noproxy", "*", "--max-time", strconv.Itoa(int(patience.Seconds())), "-D", heads}, args...)...)
	cmd.Env = inherited()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	_ = cmd.Run() // how it ended is in ProcessState
	r := reply{exit: cmd.ProcessState.ExitCode(), failure: strings.TrimSpace(stderr.String()), body: body.String(), header: http.Header{}, trailer: http.Header{}}
	content, err := os.ReadFile(heads)
	if err != nil && r.exit == 0 {
		t.Fatal(err)
	}
	r.parse(t, string(content))
	return r
}

// parse reads what curl -D writes: the head of each answer, and then trailers.
func (r *reply) parse(t testing.TB, heads string) {
	t.Helper()
	for block := range strings.SplitSeq(heads, "\r\n\r\n") {
		if strings.TrimSpace(block) == "" {
			continue
		}
		if status, fields, _ := strings.Cut(block, "\r\n"); strings.HasPrefix(status, "HTTP/") {
			if r.code != 0 {
				r.interim = append(r.interim, r.code)
			}
			words := strings.Fields(status)
			r.proto = words[0]
			r.code, _ = strconv.Atoi(words[1])
			r.header = parseFields(t, fields)
		} else {
			r.trailer = parseFields(t, block)
		}
	}
}

func parseFields(t testing.TB, fields string) http.Header {
	t.Helper()
	header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(fields + "\r\n\r\n"))).ReadMIMEHeader()
	must(t, err)
	return http.Header(header)
}

// want fails the test unless the answer has the code, and part in its body.
func (r reply) want(t testing.TB, code int, part string) {
	t.Helper()
	if r.exit != 0 || r.code != code || !strings.Contains(r.body, part) {
		t.Errorf("got %d %q (curl: %d %s), want %d %q", r.code, r.body, r.exit, r.failure, code, part)
	}
}

// get is one visit without curl, for waits; a body is cut at a megabyte. host is the Host to ask for, "" for that
// of url. TLS is not verified.
func get(url, host string, header ...string) (code int, body string, err error) {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), err
}

// answers returns nil if url is answered with 200 and part in the body.
func answers(url, part string, header ...string) error {
	code, body, err := get(url, "", header...)
	if err == nil && (code != http.StatusOK || !strings.Contains(body, part)) {
		err = fmt.Errorf("%s: %d %q, want %q", url, code, body, part)
	}
	return err
}

// bearer is the header of an operator, for get.
func (s *server) bearer() []string { return []string{"Authorization", "Bearer " + s.token} }
