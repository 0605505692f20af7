package systemd

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// margin is what a stop gets beyond its grace before systemd kills.
const margin = 10 * time.Second

// Write writes the unit. An error is about settings that a unit cannot have.
func (s Service) Write(w io.Writer) error {
	plain, secret, files, err := s.env()
	if err != nil {
		return err
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s.heading(line, secret)
	line("[Unit]")
	line("Description=adit %s: %s", s.Name, strings.ReplaceAll(s.Summary, "%", "%%"))
	line("Documentation=https://github.com/adit-tunnel/adit")
	line("Wants=network-online.target")
	line("After=network-online.target")
	line("# It is restarted for ever, however often it fails.")
	line("StartLimitIntervalSec=0")
	line("")
	line("[Service]")
	line("Type=exec")
	line("ExecStart=%s", s.program())
	line("Restart=always")
	line("RestartSec=2s")
	line("# The first signal drains for up to %s, the second, which systemd never sends, would end at once.", s.Grace)
	line("KillSignal=SIGTERM")
	line("TimeoutStopSec=%ds", int((s.Grace+margin+time.Second-1)/time.Second))
	line("")
	line("# The settings of the environment in which this was made; the README has all of them.")
	for _, v := range plain {
		line("Environment=%s", unitQuote(v.Name+"="+v.Value))
	}
	if len(secret) > 0 {
		line("EnvironmentFile=%s", s.secrets())
	}
	if len(files) > 0 {
		line("# Files that the user of the service need not be allowed to read: systemd hands it copies, which are made at the")
		line("# start, so that a change is taken up by: systemctl restart %s (systemd 250 or later)", s.unit())
		for _, v := range files {
			line("LoadCredential=%s:%s", v.Name, specifiers(v.Value))
			line(`Environment="%s=%%d/%s"`, v.Name, v.Name)
		}
	}
	line("")
	s.sandbox(line)
	line("")
	line("[Install]")
	line("WantedBy=multi-user.target")
	_, err = io.WriteString(w, b.String())
	return err
}

func (s Service) heading(line func(string, ...any), secret []Setting) {
	unit := strings.TrimSuffix(s.unit(), ".service")
	line("# A unit for adit %s, made by `%s systemd`. To install it, in the shell whose settings it is to have:", s.Name, s.Name)
	line("#")
	line("#   sudo install -m 0755 %s %s", s.Program, s.program())
	if len(secret) > 0 {
		line("#   %s systemd --secrets | sudo install -D -m 0600 /dev/stdin %s", s.program(), s.secrets())
	}
	line("#   %s systemd | sudo tee /etc/systemd/system/%s >/dev/null", s.program(), s.unit())
	line("#   sudo systemctl daemon-reload")
	line("#   sudo systemctl enable --now %s", unit)
	if len(secret) > 0 {
		var names []string
		for _, v := range secret {
			names = append(names, v.Name)
		}
		line("#")
		line("# Not in here is what is secret: %s. It is in %s, which only root may read; to change it, edit", strings.Join(names, ", "), s.secrets())
		line("# that file (%s=\"...\") and run: sudo systemctl restart %s", names[0], unit)
	}
	line("")
}

// sandbox writes what the service may not do.
func (s Service) sandbox(line func(string, ...any)) {
	low := slices.ContainsFunc(s.Ports, func(port int) bool { return port > 0 && port < 1024 })
	line("# What it may do: nothing but what a network service needs.")
	line("DynamicUser=yes")
	line("UMask=0077")
	if low {
		line("# For ports below 1024.")
		line("AmbientCapabilities=CAP_NET_BIND_SERVICE")
		line("CapabilityBoundingSet=CAP_NET_BIND_SERVICE")
	} else {
		line("CapabilityBoundingSet=")
	}
	line("# Not PrivateUsers=yes: hardened machines have no user namespaces, and it would not start there.")
	line("NoNewPrivileges=yes")
	line("ProtectSystem=strict")
	home := "yes"
	for _, folder := range s.Serve {
		if within(folder, "/home", "/root", "/run/user") {
			home = "tmpfs" // empty, but for what is bound into it
		}
	}
	line("ProtectHome=%s", home)
	for _, folder := range s.Serve {
		line("BindReadOnlyPaths=%s", specifiers(folder))
	}
	if len(s.State) > 0 {
		for _, folder := range s.State {
			name, _ := StateDirectory(folder)
			line("StateDirectory=%s", specifiers(name))
		}
		line("StateDirectoryMode=0700")
	}
	families := "AF_INET AF_INET6"
	if s.Unix {
		families += " AF_UNIX"
	}
	line("RestrictAddressFamilies=%s", families)
	for _, name := range []string{"PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectHostname", "ProtectClock", "ProtectKernelTunables", "ProtectKernelModules",
		"ProtectKernelLogs", "ProtectControlGroups", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality",
		"MemoryDenyWriteExecute", "RemoveIPC"} {
		line("%s=yes", name)
	}
	line("DevicePolicy=closed")
	line("KeyringMode=private")
	line("# Not ProcSubset=pid: how many connections may wait to be accepted is read from /proc/sys.")
	line("ProtectProc=invisible")
	line("SystemCallArchitectures=native")
	line("SystemCallFilter=@system-service")
	line("SystemCallFilter=~@privileged @resources")
	line("SystemCallErrorNumber=EPERM")
	line("# Each connection is a file. The program cannot raise this by itself, as it may not change limits.")
	line("LimitNOFILE=524288")
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
