package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hacluster/api"
	"hacluster/api/apitest"
	"hacluster/config"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
)

// broken is a joined node whose store is damaged, and the founder that still runs.
func broken(t *testing.T) (*founder, machine, *desk) {
	t.Helper()
	f := found(t)
	m, d := machine{t.TempDir()}, lone()
	if code := d.hactl(bounded(t), m.args("join", "n2", f.addr, "--token", f.token.String())...); code != 0 {
		t.Fatal(d.Err)
	}
	f.world.Answer(func(world *apitest.World) {
		world.OnWrite = func(_ *apitest.World, w api.Write) (api.Reply, error) {
			if w.Verb != api.VerbToken || w.Rejoin != "n2" {
				t.Errorf("asked for %+v", w)
			}
			return api.Reply{Token: f.token.String()}, nil
		}
	})
	for name, text := range map[string]string{"raft.db": "votes", "started": "then"} {
		if err := os.WriteFile(m.path("data/"+name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f, m, d
}

// answers runs hactl with a person who types.
func (d *desk) answers(t *testing.T, typed string, args ...string) int {
	e := d.env()
	e.In, e.Asks = strings.NewReader(typed), true
	return e.run(bounded(t), args)
}

func TestRejoinReplacesTheIdentityAndKeepsTheOldFiles(t *testing.T) {
	_, m, d := broken(t)
	before := m.tree(t)
	old, err := identity.Load(m.path("data"))
	if err != nil {
		t.Fatal(err)
	}
	if code := d.answers(t, "yes\n", "--config", m.path("etc/had.toml"), "node", "rejoin"); code != 0 {
		t.Fatal(d.Out, d.Err)
	}
	for _, want := range []string{"raft.db is damaged", "new identity", "systemctl start had"} {
		if !strings.Contains(d.Out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, d.Out)
		}
	}
	n, err := config.LoadNode(m.path("etc/had.toml"))
	if err != nil {
		t.Fatal(err)
	}
	cred, err := pki.LoadCredentials(n.TLS.CA, n.TLS.Cert, n.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(n.DataDir, "n2", n.TLS.Cert)
	if err != nil || id.NodeID == old.NodeID || cred.Identity != certIdentity(id) {
		t.Fatalf("%+v, certificate %+v, %v", id, cred.Identity, err)
	}
	for _, gone := range []string{"raft.db", "started"} {
		if _, err := os.Stat(m.path("data/" + gone)); err == nil {
			t.Errorf("%s is still there: the node would start on it", gone)
		}
	}
	aside, err := filepath.Glob(m.path("data/before-rejoin-*"))
	if err != nil || len(aside) != 1 {
		t.Fatal(aside, err)
	}
	after := machine{aside[0]}.tree(t)
	for was, kept := range map[string]string{"data/raft.db": "raft.db", "data/identity.json": "identity.json", "data/peers.json": "peers.json",
		"etc/tls/node.crt": "tls/node.crt", "etc/tls/node.key": "tls/node.key", "etc/tls/ca.key": "tls/ca.key", "etc/tls/gossip.key": "tls/gossip.key"} {
		if before[was] != after[kept] {
			t.Errorf("%s was not kept as it was", was)
		}
	}
}

func TestARejoinThatIsNotWantedChangesNothing(t *testing.T) {
	f, m, d := broken(t)
	before := m.tree(t)
	conf := []string{"--config", m.path("etc/had.toml"), "node", "rejoin"}
	for _, tc := range []struct {
		name, typed, text string
		code              int
		more              []string
		refuse            bool
	}{
		{name: "no", typed: "no\n", text: "nothing was changed", code: 1},
		{name: "y is not yes", typed: "y\n", text: "nothing was changed", code: 1},
		{name: "no answer", typed: "", text: "nothing was changed", code: 1},
		{name: "refused by the cluster", typed: "yes\n", text: "still owns group web", code: 1, refuse: true},
		{name: "nobody there", typed: "yes\n", text: "no firewall is between: TCP 1", code: 69, more: []string{"127.0.0.1:1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			join := f.world.OnJoin
			defer f.world.Answer(func(w *apitest.World) { w.OnJoin = join })
			if tc.refuse {
				f.world.Answer(func(w *apitest.World) {
					w.OnJoin = func(api.Join) (api.Joined, error) {
						return api.Joined{}, api.Errorf(api.CodeRefused, "wait", "node n2 still owns group web")
					}
				})
			}
			code := d.answers(t, tc.typed, append(conf, tc.more...)...)
			if code != tc.code || !strings.Contains(d.Err.String(), tc.text) {
				t.Fatalf("%d %s", code, d.Err)
			}
			if diff := cmp.Diff(before, m.tree(t)); diff != "" {
				t.Fatal("changed: ", diff)
			}
		})
	}
	if code := d.hactl(bounded(t), conf...); code != 64 || !strings.Contains(d.Err.String(), "--yes") {
		t.Errorf("without a person: %d %s", code, d.Err)
	}
	if code := d.hactl(bounded(t), "--config", m.path("etc/had.toml"), "quorum", "force"); code != 1 || !strings.Contains(d.Err.String(), "use another survivor") {
		t.Errorf("forcing on a damaged store: %d %s", code, d.Err)
	}
	if code := d.hactl(bounded(t), "quorum", "force", "--yes-i-know"); code != 64 {
		t.Errorf("forcing without names: %d %s", code, d.Err)
	}
}
