package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hacluster/config"
	"hacluster/internal/identity"
	"hacluster/vip"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

const ownNetwork = "HAD_TEST_OWN_NETWORK"

// TestMain plays the agent when the dead man starts this binary as one, and keeps the tests away from this machine's
// addresses: had release removes every floating one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	if os.Getenv(ownNetwork) == "" && os.Geteuid() == 0 {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), ownNetwork+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		var exit *exec.ExitError
		switch err := cmd.Run(); {
		case err == nil:
			os.Exit(0)
		case errors.As(err, &exit):
			os.Exit(max(1, exit.ExitCode()))
		default:
			fmt.Fprintln(os.Stderr, "running the tests in a network namespace:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// had runs a command line in this process.
func had(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(args, &out, &errs)
	return code, out.String(), errs.String()
}

// want runs a command line and checks how it ends; each part must be in what it says.
func want(t *testing.T, code int, args []string, says ...string) (all string) {
	t.Helper()
	got, stdout, stderr := had(args...)
	all = stdout + stderr
	if got != code {
		t.Errorf("had %s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
	for _, s := range says {
		if !strings.Contains(all, s) {
			t.Errorf("had %s: no %q in\n%s", strings.Join(args, " "), s, all)
		}
	}
	return all
}

func TestUsage(t *testing.T) {
	want(t, exitOK, []string{"version"}, "had "+version+"\n")
	want(t, exitOK, []string{"help"}, "run the agent in the foreground", "remove every floating address")
	want(t, exitUsage, []string{"run", "--no-such-flag"}, "no-such-flag", "what to do: see had help")
	want(t, exitUsage, []string{"--no-such-flag"}, "no-such-flag", "what to do: see had help")
	want(t, exitUsage, []string{"no-such-verb"}, "no-such-verb", "what to do: see had help")
}

func TestInstallWritesTheUnitAndUninstallRemovesIt(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "etc/systemd/system/had.service")
	want(t, exitOK, []string{"install", "--root", root, "--config", "/etc/had/had.toml"}, "wrote "+path)
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got = bytes.ReplaceAll(got, []byte(bin), []byte("/usr/bin/had"))
	golden := filepath.Join("testdata", "had.service")
	if *rewrite {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(text, got) {
		t.Errorf("%v: the unit differs from %s (go test -rewrite writes it anew):\n%s", err, golden, got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if tool, err := exec.LookPath("systemd-analyze"); err == nil { // says nothing where systemd finds no fault
		file := filepath.Join(t.TempDir(), "had.service")
		os.WriteFile(file, bytes.ReplaceAll(got, []byte("/usr/bin/had"), []byte("/bin/true")), 0o644)
		out, _ := exec.Command(tool, "verify", "--man=no", file).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "had.service") {
				t.Errorf("systemd-analyze: %s", line)
			}
		}
	}
	for range 2 { // twice: none is fine
		want(t, exitOK, []string{"uninstall", "--root", root}, "removed "+path)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unit is left: %v", err)
	}
}

// settings writes the had.toml of a node that could start, without any of its other files.
func settings(t *testing.T) (file string, n config.Node) {
	t.Helper()
	dir := t.TempDir()
	n = config.DefaultNode()
	n.Name, n.Addresses, n.DataDir, n.Socket = "n1", []string{"127.0.0.1"}, filepath.Join(dir, "data"), filepath.Join(dir, "run", "had.sock")
	tls := func(f string) string { return filepath.Join(dir, "tls", f) }
	n.TLS = config.TLSFiles{CA: tls("ca.crt"), Cert: tls("node.crt"), Key: tls("node.key"), GossipKey: tls("gossip.key")}
	file = filepath.Join(dir, "had.toml")
	if err := os.WriteFile(file, n.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, n
}

func TestCheckReportsEveryFaultAtOnce(t *testing.T) {
	file, _ := settings(t)
	want(t, exitOK, []string{"check", file}, "no faults; node n1 is a member at [127.0.0.1], port 7400")
	bad := filepath.Join(t.TempDir(), "had.toml")
	if err := os.WriteFile(bad, []byte("node = \"n 1\"\nrole = \"king\"\nport = 0\nadress = [\"10.0.0.1\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range [][]string{{"check", bad}, {"run", "--config", bad}} {
		want(t, exitConfig, verb, bad+":1", bad+":2", bad+":3", bad+":4", "king", "adress")
	}
	none := filepath.Join(t.TempDir(), "none.toml")
	for _, verb := range [][]string{{"check", none}, {"run", "--config", none}} {
		want(t, exitConfig, verb, none)
	}
}

// None of these is mended by starting again, so the unit must not.
func TestRunOnADiskThatCannotServeSaysWhatToDoAndEndsWithTheCodeThatSystemdDoesNotRestart(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(n config.Node) error
		says    []string
	}{
		"a machine that is no member": {func(config.Node) error { return nil }, []string{"no identity", "hactl init", "hactl join"}},
		"a wiped disk": {func(n config.Node) error {
			return errors.Join(os.MkdirAll(filepath.Dir(n.TLS.Cert), 0o700), os.WriteFile(n.TLS.Cert, []byte("x"), 0o600))
		}, []string{"node n1 has certificates but no identity in its data directory", "votes", "hactl node rejoin"}},
		"the disk of another node": {func(n config.Node) error {
			return identity.Save(n.DataDir, identity.Identity{Cluster: "c", ClusterID: "i", Name: "n2", NodeID: "x", Role: n.Role})
		}, []string{"of node n2", "set name back"}},
	} {
		t.Run(name, func(t *testing.T) {
			file, n := settings(t)
			if err := c.prepare(n); err != nil {
				t.Fatal(err)
			}
			want(t, exitConfig, []string{"run", "--alone", "--config", file}, append(c.says, "starting node n1")...)
			if os.Getenv(ownNetwork) == "" {
				t.Skip("needs root")
			}
			// Behind the dead man, as a process of its own, the same: it must not start such an agent again and again.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, "/proc/self/exe", "run", "--config", file).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitConfig {
				t.Errorf("behind the dead man: %v, want exit code %d\n%s", err, exitConfig, out)
			}
			for _, s := range c.says {
				if n := strings.Count(string(out), s); n != 1 {
					t.Errorf("behind the dead man: %q is said %d times in\n%s", s, n, out)
				}
			}
		})
	}
}

func TestReleaseNeedsNothingButTheKernel(t *testing.T) {
	if os.Getenv(ownNetwork) == "" {
		t.Skip("needs root")
	}
	if all := want(t, exitOK, []string{"release"}); all != "" {
		t.Errorf("nothing is held, and it says %q", all)
	}
	want(t, exitOK, []string{"release", "--unless-restarting"})
	// An address that is not ours stays.
	for _, args := range [][]string{{"link", "add", "d0", "type", "veth", "peer", "name", "d1"}, {"addr", "add", "198.18.0.9/24", "dev", "d0"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", "d0").Run() })
	want(t, exitOK, []string{"release"})
	if out, err := exec.Command("ip", "-o", "addr", "show", "dev", "d0").Output(); err != nil || !bytes.Contains(out, []byte("198.18.0.9")) {
		t.Errorf("somebody else's address was removed: %v %s", err, out)
	}
}

// What an agent has set up in the kernel goes with its addresses, without the agent.
func TestReleaseLeavesNoGate(t *testing.T) {
	if os.Getenv(ownNetwork) == "" {
		t.Skip("needs root")
	}
	if err := vip.GateSupported(); err != nil {
		t.Skip("needs nf_tables:", err)
	}
	for _, args := range [][]string{{"link", "add", "d2", "type", "veth", "peer", "name", "d3"}, {"addr", "add", "198.18.1.9/24", "dev", "d2"},
		{"link", "set", "d2", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", "d2").Run() })
	m, err := vip.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := vip.Spec{Address: netip.MustParsePrefix("198.18.1.100/24")}
	if err := errors.Join(m.OpenGate(), m.Guard(s.Address.Addr()), m.Add(s, time.Minute)); err != nil {
		t.Fatal(err)
	}
	want(t, exitOK, []string{"release"}, "removed 198.18.1.100/32 from d2")
	if _, err := m.Gate(); !errors.Is(err, vip.ErrNoGate) {
		t.Errorf("the gate after the release: %v", err)
	}
	if there, err := m.Present(s); there || err != nil {
		t.Errorf("the address after the release: %v, %v", there, err)
	}
}

func TestTheUnitAndTheProgramAgree(t *testing.T) {
	for _, line := range []string{fmt.Sprintf("RestartPreventExitStatus=%d", exitConfig), "Restart=always", "KillMode=process", "Type=notify"} {
		if !strings.Contains(unitTemplate, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
	if !strings.Contains(unitTemplate, "ExecStopPost=@BIN@ release --unless-restarting\n") {
		t.Error("the end of the agent does not release the addresses")
	}
	var budget int
	for line := range strings.Lines(unitTemplate) {
		fmt.Sscanf(line, "TimeoutStopSec=%d", &budget)
	}
	if time.Duration(budget)*time.Second <= leaveTimeout {
		t.Errorf("systemd kills after %ds an agent that may take %v to hand over", budget, leaveTimeout)
	}
}
