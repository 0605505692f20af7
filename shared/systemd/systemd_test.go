package systemd

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// write returns the unit without its comments, line by line.
func write(t *testing.T, s Service) []string {
	t.Helper()
	var out strings.Builder
	if err := s.Write(&out); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

func TestWrite(t *testing.T) {
	base := Service{Name: "client", Summary: "100% of it", Program: "/opt/client"}
	for _, test := range []struct {
		name    string
		change  func(*Service)
		want    []string // lines that are there
		without []string // beginnings of lines that are not
	}{
		{
			name: "the least", change: func(*Service) {},
			want: []string{"Description=adit client: 100%% of it", "ExecStart=/usr/local/bin/adit-client", "Restart=always", "KillSignal=SIGTERM", "TimeoutStopSec=10s",
				"DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectHome=yes",
				"RestrictAddressFamilies=AF_INET AF_INET6", "WantedBy=multi-user.target"},
			without: []string{"Environment", "AmbientCapabilities", "StateDirectory", "BindReadOnlyPaths", "LoadCredential"},
		},
		{
			name: "grace", change: func(s *Service) { s.Grace = 90*time.Second + time.Millisecond },
			want: []string{"TimeoutStopSec=101s"},
		},
		{
			name: "port below 1024", change: func(s *Service) { s.Ports = []int{8000, 443} },
			want: []string{"AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"},
		},
		{
			name: "other ports", change: func(s *Service) { s.Ports = []int{0, 1024, 8000} },
			want: []string{"CapabilityBoundingSet="}, without: []string{"AmbientCapabilities"},
		},
		{
			name: "unix sockets", change: func(s *Service) { s.Unix = true },
			want: []string{"RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"},
		},
		{
			name: "settings", change: func(s *Service) {
				s.Env = []Setting{{Name: "A", Value: `say "hi" \ 100% $HOME` + "\n\tü'"}, {Name: "TOKEN", Value: "verysecret", Secret: true}, {Name: "CERT_FILE", Value: "/etc/50%", File: true}, {Name: "B", Value: "b"}}
				s.Set = map[string]string{"B": "c", "C": "d"}
			},
			want: []string{`Environment="A=say \"hi\" \\ 100%% $HOME\x0a\x09ü'"`, `Environment="B=c"`, `Environment="C=d"`, "EnvironmentFile=/etc/adit/client.env",
				"LoadCredential=CERT_FILE:/etc/50%%", `Environment="CERT_FILE=%d/CERT_FILE"`},
			without: []string{`Environment="TOKEN`},
		},
		{
			name: "state", change: func(s *Service) { s.State = []string{"/var/lib/adit/ca/"} },
			want: []string{"StateDirectory=adit/ca", "StateDirectoryMode=0700"},
		},
		{
			name: "folders", change: func(s *Service) { s.Serve = []string{"/srv/100%"} },
			want: []string{"BindReadOnlyPaths=/srv/100%%", "ProtectHome=yes"},
		},
		{
			name: "folders of users", change: func(s *Service) { s.Serve = []string{"/home/me/web"} },
			want: []string{"BindReadOnlyPaths=/home/me/web", "ProtectHome=tmpfs"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := base
			test.change(&s)
			lines := write(t, s)
			for _, want := range test.want {
				if !slices.Contains(lines, want) {
					t.Errorf("%s is missing in\n%s", want, strings.Join(lines, "\n"))
				}
			}
			for _, line := range lines {
				for _, not := range test.without {
					if strings.HasPrefix(line, not) {
						t.Errorf("%s is there", line)
					}
				}
				if strings.Contains(line, "verysecret") {
					t.Errorf("the secret is in the unit: %s", line)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, s := range []Setting{
		{Name: "A", Value: "\xff"}, {Name: "A", Value: "a\x00"},
		{Name: "A", Value: "token", File: true}, {Name: "A", Value: "/a b", File: true}, {Name: "A", Value: "/a:b", File: true}, {Name: "A", Value: "", File: true},
	} {
		var out strings.Builder
		service := Service{Name: "client", Env: []Setting{s}}
		if err := service.Write(&out); err == nil || !strings.HasPrefix(err.Error(), "A: ") || out.Len() > 0 {
			t.Errorf("%+v: got %v and %q", s, err, out.String())
		}
		if err := service.WriteSecrets(&out); err == nil || out.Len() > 0 {
			t.Errorf("%+v: got %v and %q", s, err, out.String())
		}
	}
}

// A shell reads the file of secrets as systemd does.
func TestWriteSecrets(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("sh is absent")
	}
	const hostile = "a \"b\" 'c' \\ \\n $HOME `id` $(id) #x\nsecond line=1\n\ttab %d ü"
	var out strings.Builder
	service := Service{Name: "client", Env: []Setting{{Name: "TOKEN", Value: hostile, Secret: true}, {Name: "PLAIN", Value: "1"}, {Name: "X_FILE", Value: "/x", File: true}}}
	if err := service.WriteSecrets(&out); err != nil {
		t.Fatal(err)
	}
	got, err := exec.CommandContext(t.Context(), "sh", "-c", out.String()+`printf '%s|%s|%s' "$TOKEN" "$PLAIN" "$X_FILE"`).Output()
	if err != nil || string(got) != hostile+"||" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestStateDirectory(t *testing.T) {
	for path, want := range map[string]string{
		"/var/lib/adit": "adit", "/var/lib/adit/ca/": "adit/ca", "/var/lib/../lib/adit": "adit",
		"/var/lib": "", "/var/lib/": "", "/etc/adit": "", "adit": "", "/var/lib/../../etc": "", "/var/lib/a b": "", "/var/lib/a:b": "", "/var/lib/private/adit": "", "": "",
	} {
		if got, ok := StateDirectory(path); ok != (want != "") || ok && got != want {
			t.Errorf("%s: got %s, %v", path, got, ok)
		}
	}
}

func TestHidden(t *testing.T) {
	for path, want := range map[string]bool{
		"/home/me/x": true, "/root": true, "/tmp/x": true, "/var/tmp/x": true, "/run/user/1000/x": true, "/run/../tmp/x": true,
		"/run/x": false, "/tmpfs/x": false, "/srv": false,
	} {
		if got := Hidden(path); got != want {
			t.Errorf("%s: got %v", path, got)
		}
	}
}
