//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// sshService is an OpenSSH server for the user who runs the test, with keys of its own.
type sshService struct {
	user, key, known string
	addr             string
}

func newSSHService(t testing.TB) *sshService {
	t.Helper()
	path, err := exec.LookPath("sshd")
	if err != nil {
		path = "/usr/sbin/sshd" // not in everyone's PATH
	}
	path = needProgram(t, path, "openssh-server")
	keygen := needProgram(t, "ssh-keygen", "openssh-client")
	dir := t.TempDir()
	host, key := filepath.Join(dir, "host"), filepath.Join(dir, "user")
	for _, name := range []string{host, key} {
		visitor{}.run(t, keygen, "-q", "-t", "ed25519", "-N", "", "-f", name)
	}
	public, err := os.ReadFile(host + ".pub")
	must(t, err)
	me, err := user.Current()
	must(t, err)
	s := &sshService{user: me.Username, key: key, known: write(t, "known_hosts", "service "+string(public))}
	if me.Uid == "0" {
		separateSSH(t)
	}
	var port string
	port, s.addr = privatePort(t)
	config := write(t, "sshd_config", strings.Join([]string{
		"ListenAddress 127.0.0.1:" + port, "HostKey " + host, "AuthorizedKeysFile " + key + ".pub", "StrictModes no",
		"PidFile none", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password", "AllowTcpForwarding yes", "Subsystem sftp internal-sftp", "MaxStartups 100", "",
	}, "\n"))
	serve(t, syscall.SIGINT, s.addr, path, "-D", "-e", "-f", config)
	return s
}

var separated struct {
	sync.Mutex
	services int
	made     bool
}

// separateSSH makes the empty folder in which a sshd of root locks up its unprivileged part, unless the machine has it,
// and removes it when no test needs it any more.
func separateSSH(t testing.TB) {
	t.Helper()
	const dir = "/run/sshd"
	separated.Lock()
	defer separated.Unlock()
	if separated.services == 0 {
		err := os.Mkdir(dir, 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		separated.made = err == nil
	}
	separated.services++
	t.Cleanup(func() {
		separated.Lock()
		defer separated.Unlock()
		if separated.services--; separated.services == 0 && separated.made {
			_ = os.Remove(dir)
		}
	})
}

// options are those of ssh, scp and sftp: nothing of the user's own, and the host key of the service and no other.
func (s *sshService) options() []string {
	var list []string
	for _, o := range []string{
		"UserKnownHostsFile=" + s.known, "HostKeyAlias=service", "StrictHostKeyChecking=yes", "IdentityFile=" + s.key,
		"IdentitiesOnly=yes", "BatchMode=yes", "ConnectTimeout=20", "LogLevel=ERROR",
	} {
		list = append(list, "-o", o)
	}
	return append([]string{"-F", "none"}, list...)
}

func (s *sshService) command(program string, words ...string) []string {
	return append(append([]string{program}, s.options()...), words...)
}

// TestSSH logs in, copies files and forwards a port.
func TestSSH(t *testing.T) {
	t.Parallel()
	ssh, scp := needProgram(t, "ssh", "openssh-client"), needProgram(t, "scp", "openssh-client")
	s := newSSHService(t)
	const size = 4 << 20
	file, hash := testFile(t, size)
	bothWays(t, s.addr, func(t *testing.T, port string) string {
		var results []string
		note := func(format string, args ...any) { results = append(results, fmt.Sprintf(format, args...)) }
		login := s.user + "@127.0.0.1"

		// What is typed ends, the command goes on and has a result of its own.
		code, out := visitor{in: strings.NewReader("typed\n")}.exit(t, s.command(ssh, "-p", port, login, "cat; echo done; exit 3")...)
		note("login: %d %q", code, out)

		there, back := filepath.Join(t.TempDir(), "there"), filepath.Join(t.TempDir(), "back")
		visitor{}.run(t, s.command(scp, "-q", "-P", port, file, login+":"+there)...)
		note("scp there: %s", hashOfFile(t, there))
		visitor{}.run(t, s.command(scp, "-q", "-P", port, login+":"+there, back)...)
		note("scp back: %s", hashOfFile(t, back))
		if got := hashOfFile(t, back); got != hash {
			t.Errorf("came back with hash %s, want %s", got, hash)
		}

		forwarded, local := privatePort(t)
		serve(t, syscall.SIGTERM, local, s.command(ssh, "-p", port, "-N", "-o", "ExitOnForwardFailure=yes",
			"-L", local+":"+hashService(t, "behind"), login)...)
		answer, err := ask("127.0.0.1:"+forwarded, size)
		must(t, err)
		note("forward: %s", answer)
		if want := fmt.Sprintf("behind %d %s", size, hash); answer != want {
			t.Errorf("through a forwarded port: got %s, want %s", answer, want)
		}
		return strings.Join(results, "\n")
	})
}

// TestRsyncOverSSH copies a tree of files both ways.
func TestRsyncOverSSH(t *testing.T) {
	t.Parallel()
	rsync, ssh := needProgram(t, "rsync", "rsync"), needProgram(t, "ssh", "openssh-client")
	s := newSSHService(t)
	tree := newTree(t)
	bothWays(t, s.addr, func(t *testing.T, port string) string {
		there, back := filepath.Join(t.TempDir(), "there"), filepath.Join(t.TempDir(), "back")
		shell := strings.Join(s.command(ssh, "-p", port), " ")
		visitor{}.run(t, rsync, "-a", "-e", shell, tree+"/", s.user+"@127.0.0.1:"+there)
		visitor{}.run(t, rsync, "-az", "-e", shell, s.user+"@127.0.0.1:"+there+"/", back)
		for _, copied := range []string{there, back} {
			if got, want := hashOfTree(t, copied), hashOfTree(t, tree); got != want {
				t.Errorf("the copy has\n%s\nwant\n%s", got, want)
			}
		}
		return hashOfTree(t, back)
	})
}
