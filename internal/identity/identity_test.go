package identity

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hacluster/placement"
)

var n1 = Identity{Cluster: "prod", ClusterID: "c-1", Name: "n1", NodeID: "id-1", Role: placement.RoleMember}

func TestWhatIsSavedIsLoaded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	if err := Save(dir, n1); err != nil {
		t.Fatal(err)
	}
	got, err := Open(dir, "n1")
	if err != nil || got != n1 {
		t.Fatalf("got %+v, %v, want %+v", got, err, n1)
	}
	want := Bootstrap{Addresses: []string{"198.18.0.1:7400"}, Gossip: []string{"198.18.0.1:7401"}}
	if err := SaveBootstrap(dir, want); err != nil {
		t.Fatal(err)
	}
	b, ok, err := LoadBootstrap(dir)
	if d := cmp.Diff(want, b); d != "" || !ok || err != nil {
		t.Fatalf("bootstrap: ok %v, err %v, diff %s", ok, err, d)
	}
	for range 2 { // twice: none is fine
		if err := ClearBootstrap(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := LoadBootstrap(dir); ok || err != nil {
		t.Fatalf("after clearing: ok %v, err %v", ok, err)
	}
	if p, err := LoadPeers(dir); err != nil || len(p) != 0 {
		t.Fatalf("no peers: %v, %v", p, err)
	}
	peers := Peers{"n2": {ID: "id-2", Role: placement.RoleWitness, Addresses: []string{"198.18.0.2:7400"}}}
	if err := SavePeers(dir, peers); err != nil {
		t.Fatal(err)
	}
	p, err := LoadPeers(dir)
	if d := cmp.Diff(peers, p); d != "" || err != nil {
		t.Fatalf("peers: %v %s", err, d)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if strings.HasPrefix(f.Name(), ".") {
			t.Errorf("the temporary file %s is left", f.Name())
		}
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", f.Name(), info.Mode(), err)
		}
	}
}

func TestEachReasonNotToStartSaysWhatToDo(t *testing.T) {
	cert := filepath.Join(t.TempDir(), "node.crt")
	if err := os.WriteFile(cert, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(content string) string {
		dir := t.TempDir()
		if content != "" {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for _, c := range []struct {
		name, dir, cert string
		want            error
		text            string
	}{
		{"a wiped disk", with(""), cert, ErrWiped, "run `hactl node rejoin` here"},
		{"a fresh machine", with(""), cert + ".none", ErrNotMember, "run `hactl init`"},
		{"a renamed node", with(`{"cluster":"c","cluster_id":"i","name":"n2","node_id":"x","role":"member"}`), cert, ErrMismatch, "of node n2"},
		{"a field is missing", with(`{"cluster":"c","cluster_id":"i","name":"n1","role":"member"}`), cert, nil, "node_id is missing"},
		{"not JSON", with(`{`), cert, nil, "identity.json: unexpected end of JSON input"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.dir, "n1", c.cert)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestTheGossipKeyIsReadBackAndNothingElseIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tls", "gossip.key")
	want := bytes.Repeat([]byte{7}, 32)
	if err := SaveGossipKey(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadGossipKey(path); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %x, %v", got, err)
	}
	for _, bad := range []string{"", "AAAA", "not base64!"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadGossipKey(path); err == nil || !strings.Contains(err.Error(), "copy the file from another node") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"cluster":"c","cluster_id":"i","name":"n","node_id":"x","role":"member"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[]`))
	f.Add([]byte("\xff{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if id, err := Load(dir); err == nil && (id.Name == "" || id.NodeID == "" || id.ClusterID == "") {
			t.Fatalf("an incomplete identity was accepted: %+v", id)
		}
	})
}
