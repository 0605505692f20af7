package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/adit-tunnel/adit/shared/config"
)

// The deadlines of what asks the running instance. A probe's is below the
// timeouts that platforms give one.
const (
	statusTimeout = 10 * time.Second
	probeTimeout  = 3 * time.Second
)

// status loads all settings but needs only some: the environment of an operator
// need not be that of the running instance. Faults are told when it fails.
func (p Program) status(args []string, stdout, stderr io.Writer) int {
	var asJSON bool
	if code, stop := p.parse("status", args, stdout, stderr, boolFlag{"json", &asJSON}); stop {
		return code
	}
	settings := p.Settings()
	faults := config.Load(settings)
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	doc, err := p.Status(ctx, settings)
	if err != nil {
		fmt.Fprintln(stderr, err)
		if faultsOf(err) != nil {
			return ExitUsage
		}
		if faults != nil {
			fmt.Fprintln(stderr, faults)
			return ExitUsage
		}
		return ExitFailure
	}
	if asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		err = out.Encode(doc)
	} else {
		err = doc.WriteTable(stdout, time.Now())
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return ExitFailure
	}
	return ExitOK
}

// healthcheck exits 1 whatever the reason, bad configuration too: Docker reserves
// the other codes.
func (p Program) healthcheck(args []string, stdout, stderr io.Writer) int {
	var ready bool
	if code, stop := p.parse("healthcheck", args, stdout, stderr, boolFlag{"ready", &ready}); stop {
		return code
	}
	settings := p.Settings()
	faults := config.Load(settings)
	url, client, err := p.Probe(settings)
	if err == nil {
		path := "/healthz"
		if ready {
			path = "/readyz"
		}
		err = probe(client, strings.TrimSuffix(url, "/")+path)
	}
	if err == nil {
		return ExitOK
	}
	fmt.Fprintln(stderr, err)
	if faults != nil {
		fmt.Fprintln(stderr, faults)
	}
	return ExitFailure
}

// probe returns nil if url answers with 200.
func probe(client *http.Client, url string) error {
	if client == nil {
		// Neither through a proxy nor to where a redirect leads: what is asked is
		// in the same container.
		client = &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	reason, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	return fmt.Errorf("probe %s: %s: %s", url, resp.Status, strings.TrimSpace(string(reason)))
}
