package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"hacluster/fence"
	"hacluster/placement"
	"pgregory.net/rapid"
)

func TestANodeIsFilledWithDefaults(t *testing.T) {
	got, err := ParseNode("/etc/had/had.toml", []byte("name = \"n1\"\naddresses = [\"10.0.0.1\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultNode()
	want.Name, want.Addresses = "n1", []string{"10.0.0.1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRelativePathsAreRelativeToTheFolderOfTheFile(t *testing.T) {
	text, err := os.ReadFile("testdata/valid-node-relative.toml")
	if err != nil {
		t.Fatal(err)
	}
	n, err := ParseNode("/srv/node1/had.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{n.DataDir, n.Socket, n.TLS.CA, n.TLS.Cert, n.TLS.Key, n.TLS.GossipKey}
	want := []string{"/srv/node1/state", "/srv/node1/run/had.sock", "/srv/node1/tls/ca.crt", `/srv/node1/tls\node.crt`, "/srv/tls/node.key", "/srv/gossip.key"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAFileThatCannotBeReadSaysWhy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "had.toml")
	for name, load := range map[string]func() error{
		"node":    func() error { _, err := LoadNode(file); return err },
		"cluster": func() error { _, err := LoadCluster(file); return err },
	} {
		err := load()
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) || Faults(err) != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Encode and ParseNode are inverse for every node with absolute paths.
func TestEncodedNodeReadsBack(t *testing.T) {
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)
	address := rapid.OneOf(rapid.StringMatching(`10\.[1-9]\.[1-9]\.[1-9]`), rapid.StringMatching(`fd00::[1-9a-f]`), rapid.StringMatching(`[a-z]{1,9}\.example`))
	path := rapid.Map(rapid.String(), func(s string) string { return "/" + strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?") })
	port := rapid.IntRange(1, 65535)
	rapid.Check(t, func(t *rapid.T) {
		want := Node{
			Name:       name.Draw(t, "name"),
			Role:       rapid.SampledFrom(roles).Draw(t, "role"),
			Addresses:  rapid.SliceOfNDistinct(address, 1, 4, func(s string) string { return s }).Draw(t, "addresses"),
			Port:       port.Draw(t, "port"),
			GossipPort: port.Draw(t, "gossip port"),
			DataDir:    path.Draw(t, "data dir"),
			Socket:     path.Draw(t, "socket"),
			TLS:        TLSFiles{path.Draw(t, "ca"), path.Draw(t, "cert"), path.Draw(t, "key"), path.Draw(t, "gossip key")},
			Watchdog:   Watchdog{rapid.SampledFrom(fence.WatchdogModes).Draw(t, "watchdog"), path.Draw(t, "watchdog device"), time.Duration(rapid.IntRange(5, 600).Draw(t, "watchdog timeout")) * time.Second},
			Log:        Log{rapid.SampledFrom(logLevels).Draw(t, "level"), rapid.SampledFrom(logFormats).Draw(t, "format")},
		}
		if want.Port == want.GossipPort {
			t.Skip("refused: one port for both")
		}
		got, err := ParseNode("/etc/had/had.toml", want.Encode())
		if err != nil {
			t.Fatalf("%v\n%s", err, want.Encode())
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestEncodedDefaultsAreCommented(t *testing.T) {
	n := DefaultNode()
	n.Name, n.Role, n.Addresses = "witness", placement.RoleWitness, []string{"10.0.0.13"}
	text := string(n.Encode())
	for _, want := range []string{"# ", `name = "witness"`, `role = "witness"`, `addresses = ["10.0.0.13"]`, "port = 7400", "[tls]", "[log]"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func FuzzNode(f *testing.F) {
	seedFuzz(f, "testdata/*-node-*.toml")
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := ParseNode("/etc/had/had.toml", text)
		if err != nil {
			checkFaults(t, string(text), err)
			return
		}
		again, err := ParseNode("/etc/had/had.toml", n.Encode())
		if err != nil {
			t.Fatalf("%v\n%s", err, n.Encode())
		}
		if d := cmp.Diff(n, again); d != "" {
			t.Error(d)
		}
	})
}

func seedFuzz(f *testing.F, pattern string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}
