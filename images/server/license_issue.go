package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/license"
)

// issueSettings is where the private key comes from in an image.
type issueSettings struct {
	Key config.Secret `envconfig:"LICENSE_PRIVATE_KEY" desc:"PEM private key that signs licences."`
}

// issueFlags are those of license issue as they were typed.
type issueFlags struct{ key, sub, exp, nbf, iss, jti, hosts, ports, maxClients string }

// issue prints a licence, and nothing else to stdout.
func (c licenseCommand) issue(args []string) error {
	var f issueFlags
	set := flag.NewFlagSet("issue", flag.ContinueOnError)
	for name, value := range map[string]*string{
		"key": &f.key, "sub": &f.sub, "exp": &f.exp, "nbf": &f.nbf, "iss": &f.iss, "jti": &f.jti,
		"hosts": &f.hosts, "ports": &f.ports, "max-clients": &f.maxClients,
	} {
		set.StringVar(value, name, "", "")
	}
	if _, err := arguments(set, args, 0); err != nil {
		return err
	}
	l, err := f.license(c.now)
	if err != nil {
		return fault{err}
	}
	key, err := c.privateKey(f.key)
	if err != nil {
		return err
	}
	text, err := license.Issue(key, l)
	if err != nil {
		return fault{err}
	}
	if _, err := fmt.Fprintln(c.stdout, text); err != nil {
		return err
	}
	return describe(c.stderr, l, c.now)
}

// privateKey reads the key from the file that was typed, or else from where the environment
// says.
func (c licenseCommand) privateKey(path string) (key license.PrivateKey, err error) {
	if path == "" {
		var s issueSettings
		if err := config.Load(&s); err != nil {
			return key, err
		}
		if !s.Key.IsSet() {
			return key, fault{errors.New("there is no key to sign with: give --key FILE (- for stdin), or set LICENSE_PRIVATE_KEY_FILE")}
		}
		if key, err = license.ParsePrivateKey(s.Key.Value()); err != nil {
			return key, fault{config.Fault("LICENSE_PRIVATE_KEY", "%w", err)}
		}
		return key, nil
	}
	text, err := c.read(path)
	if err != nil {
		return key, err
	}
	if info, err := os.Stat(path); path != "-" && err == nil && readableByOthers(info) {
		fmt.Fprintf(c.stderr, "warning: others may read the private key: chmod 600 %s\n", path)
	}
	if key, err = license.ParsePrivateKey(text); err != nil {
		return key, fmt.Errorf("%s: %w", place(path), err)
	}
	return key, nil
}

// license makes of the flags what they say, or tells all that is wrong with them.
func (f issueFlags) license(now time.Time) (license.License, error) {
	var errs []error
	wrong := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--"+flag+": "+format, args...))
	}
	l := license.License{
		Subject: f.sub, Issuer: f.iss, ID: f.jti, IssuedAt: now.UTC().Truncate(time.Second),
		Hosts: []string{}, Ports: []license.Ports{}, // what is not named is not allowed
	}
	if f.sub == "" {
		wrong("sub", "is missing: say whom the licence is for")
	}
	var err error
	switch l.Expires, err = moment(f.exp, now); {
	case f.exp == "":
		wrong("exp", "is missing: say when the licence ends, as in 365d or 2027-12-31")
	case err != nil:
		wrong("exp", "%w", err)
	case !l.Expires.After(now):
		wrong("exp", "%s is over", f.exp)
	}
	if f.nbf != "" {
		switch l.NotBefore, err = moment(f.nbf, now); {
		case err != nil:
			wrong("nbf", "%w", err)
		case len(errs) == 0 && !l.NotBefore.Before(l.Expires):
			wrong("nbf", "the licence would begin after its end")
		}
	}
	if f.hosts == "" && f.ports == "" {
		wrong("hosts", "is missing, and so is --ports: say what the licence allows, --hosts '*' --ports 1-65535 for everything")
	}
	for _, text := range splitList(f.hosts) {
		host, err := license.ParseHost(text)
		if err != nil {
			wrong("hosts", "%w", err)
		}
		l.Hosts = append(l.Hosts, host)
	}
	for _, text := range splitList(f.ports) {
		ports, err := license.ParsePorts(text)
		if err != nil {
			wrong("ports", "%w", err)
		}
		l.Ports = append(l.Ports, ports)
	}
	if f.maxClients != "" {
		if l.MaxClients, err = strconv.Atoi(f.maxClients); err != nil || l.MaxClients < 1 {
			wrong("max-clients", "%q is not a number of clients: leave it out for any number", f.maxClients)
		}
	}
	return l, errors.Join(errs...)
}

var daysRegexp = regexp.MustCompile(`^([1-9][0-9]{0,4})([dwy])$`)

// moment reads a time: so long from now, or a date, which lasts until its end in UTC.
func moment(s string, now time.Time) (time.Time, error) {
	now = now.UTC().Truncate(time.Second)
	if m := daysRegexp.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1])
		switch m[2] {
		case "y":
			return now.AddDate(n, 0, 0), nil
		case "w":
			n *= 7
		}
		return now.AddDate(0, 0, n), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= time.Second {
		return now.Add(d).Truncate(time.Second), nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC().Truncate(time.Second), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 90d, 12w, 1y, 36h, 2027-12-31 or 2027-12-31T12:00:00Z", s)
}

// describe writes what a licence says.
func describe(w io.Writer, l license.License, now time.Time) error {
	clients := "any number"
	switch {
	case l.MaxClients == 1:
		clients = "1"
	case l.MaxClients > 0:
		clients = fmt.Sprintf("%d at once", l.MaxClients)
	}
	const day = 24 * time.Hour
	left := "in less than two days"
	switch until := l.Expires.Sub(now); {
	case until <= 0:
		left = "in the past"
	case until >= 2*day:
		left = fmt.Sprintf("in %d days", until.Round(day)/day)
	}
	lines := [][2]string{
		{"Subject", l.Subject},
		{"Expires", l.Expires.Format(time.RFC3339) + ", " + left},
		{"Hosts", l.AllHosts()},
		{"Ports", l.AllPorts()},
		{"Clients", clients},
	}
	if !l.NotBefore.IsZero() {
		lines = append(lines, [2]string{"Begins", l.NotBefore.Format(time.RFC3339)})
	}
	if l.Issuer != "" {
		lines = append(lines, [2]string{"Issuer", l.Issuer})
	}
	if l.ID != "" {
		lines = append(lines, [2]string{"ID", l.ID})
	}
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "%-9s %s\n", line[0]+":", line[1]); err != nil {
			return err
		}
	}
	return nil
}
