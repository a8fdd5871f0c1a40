package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/config"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/internal/wire"
	"hacluster/placement"
	"hacluster/raft"
)

// rejoinVerb is `hactl node rejoin`: this node lost its store and comes back under a new identity.
type rejoinVerb struct {
	*env
	Member string    // host:port of any other node; empty: those this node knows
	Token  pki.Token // optional: zero proves the old identity by its certificate
	Yes    bool
}

func rejoinCommand(e *env) *cli.Command {
	return &cli.Command{Name: "rejoin", Usage: "bring this node back after the loss of its store", ArgsUsage: "[ADDRESS[:PORT]]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "token", Usage: "made by hactl token --rejoin on another node; without it the old certificate must still be good"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
		},
		Action: func(c *cli.Context) error {
			v := &rejoinVerb{env: e, Yes: c.Bool("yes")}
			if c.Args().Present() {
				addr, err := oneArg(c, "address of any other node")
				if err != nil {
					return err
				}
				v.Member = withPort(addr, config.DefaultNode().Port)
			}
			if text := c.String("token"); text != "" {
				token, err := pki.ParseToken(text)
				if err != nil {
					return usagef("copy the whole token, or make a new one with `hactl token --rejoin`", "%v", err)
				}
				v.Token = token
			}
			return v.run(c.Context)
		}}
}

// remains is what is left of a node on its disk.
type remains struct {
	node     config.Node
	id       identity.Identity // NodeID is empty when nothing says it
	cred     *pki.Credentials  // nil: unreadable
	found    raft.Found
	storeErr error
}

// stopped refuses to touch the files of a running agent.
func (e *env) stopped(n config.Node) error {
	if pid := runsFor(e.Config); pid != 0 {
		return refusef("run `systemctl stop had` first", "had is running on this node (process %d)", pid)
	}
	conn, err := net.DialTimeout("unix", n.Socket, time.Second)
	if err != nil {
		return nil
	}
	conn.Close()
	return refusef("run `systemctl stop had` first", "had is running on this node")
}

// look reads what is left of this node; nothing is changed.
func (e *env) look() (remains, error) {
	n, err := config.LoadNode(e.Config)
	if err != nil {
		return remains{}, refusef("name it with --config; a machine without one joins with `hactl join`", "this needs the had.toml of the node: %w", err)
	}
	r := remains{node: n}
	if err := e.stopped(n); err != nil {
		return r, err
	}
	if r.found, r.storeErr = raft.Look(n.DataDir, placement.State.Apply); errors.Is(r.storeErr, raft.ErrInUse) {
		return r, refusef("run `systemctl stop had` first", "had is running on this node: %w", r.storeErr)
	}
	r.cred, _ = pki.LoadCredentials(n.TLS.CA, n.TLS.Cert, n.TLS.Key)
	id, err := identity.Load(n.DataDir)
	switch {
	case err == nil && id.Name != n.Name:
		return r, refusef("set name back", "had.toml names this node %s, its data directory is of node %s", n.Name, id.Name)
	case err == nil:
		r.id = id
	default:
		r.id = identity.Identity{Name: n.Name, Role: n.Role}
		if r.cred != nil {
			c := r.cred.Identity
			r.id.Cluster, r.id.ClusterID, r.id.NodeID = c.Cluster, c.ClusterID, c.NodeID
		}
		if r.storeErr == nil {
			r.storeErr = err
		}
	}
	return r, nil
}

// finding says in words what is wrong with the store.
func (r remains) finding() string {
	switch {
	case errors.Is(r.storeErr, raft.ErrWiped), errors.Is(r.storeErr, fs.ErrNotExist):
		return "the replicated state in " + r.node.DataDir + " is gone"
	case r.storeErr != nil:
		text := r.storeErr.Error()
		if i := strings.Index(text, ". Nothing was changed"); i > 0 {
			text = text[:i]
		}
		return strings.TrimPrefix(text, raft.ErrStorage.Error()+": ")
	}
	return fmt.Sprintf("the replicated state in %s is intact, up to entry %d", r.node.DataDir, r.found.Index)
}

func (v *rejoinVerb) run(ctx context.Context) error {
	r, err := v.look()
	if err != nil {
		return err
	}
	byToken := v.Token.ID != ""
	members, err := v.members(r)
	switch {
	case err != nil:
		return err
	case r.storeErr == nil && !byToken:
		return refusef("start it: `systemctl start had`. If the others refuse its certificate (it was removed, or they went on without it by "+
			"`hactl quorum force`), run `hactl token --rejoin "+r.id.Name+"` there and use --token", "nothing is wrong here: %s", r.finding())
	case r.cred == nil && !byToken:
		return refusef("run `hactl token --rejoin "+r.id.Name+"` on another node and use --token", "the old certificate of this node cannot be read, so it proves nothing")
	}
	aside := filepath.Join(r.node.DataDir, "before-rejoin-"+v.Now().Format("20060102-150405"))
	if !v.JSON {
		v.explain(r, aside, byToken)
	}
	if !v.Yes {
		if err := v.asker().yes(ctx, "Go on?", "--yes"); err != nil {
			return err
		}
	}
	id, err := v.replace(ctx, r, members, aside)
	if err != nil {
		return err
	}
	if v.JSON {
		return v.printJSON(started{id.Cluster, id.ClusterID, id.Name, id.NodeID, id.Role, v.Config, r.node.DataDir})
	}
	v.printf("\nNode %s of cluster %s has a new identity.\nThe old files are in %s.\n\nNext, here, as root:\n  systemctl start had\n  hactl status\n\n%s\n",
		id.Name, clean(id.Cluster), aside, wrap("It gets the state from the others and votes again within seconds. The old files may be deleted once nobody "+
			"wants to know what happened to them.", 0, 0))
	return nil
}

func (v *rejoinVerb) explain(r remains, aside string, byToken bool) {
	v.printf("Node     %s (%s) of cluster %s\n", r.id.Name, r.id.Role, clean(or(r.id.Cluster, "?")))
	v.printf("Found    %s\n", wrap(r.finding(), 9, 9))
	meaning := "with its store the node has forgotten which leaders it voted for and what it confirmed. Under its old identity it could " +
		"undo what the cluster has decided, so it comes back empty under a new one. The other nodes have everything; they bring it up to date."
	if r.storeErr == nil {
		meaning = "this node was removed, or the cluster went on without it. What is here may be another history than the cluster's, so it is put " +
			"aside and the node comes back empty under a new identity. The other nodes bring it up to date."
	}
	v.printf("Meaning  %s\n", wrap(meaning, 9, 9))
	proof := "proven by the old certificate"
	if byToken {
		proof = "allowed by the token"
	}
	v.printf("Then     %s\n", wrap("1. the cluster takes away the vote of the old identity and refuses its certificate; 2. it admits a new identity under the "+
		"same name, "+proof+"; 3. the old files move to "+aside+", nothing is deleted.", 9, 9))
}

// members are the addresses to ask.
func (v *rejoinVerb) members(r remains) ([]string, error) {
	if v.Member != "" {
		return []string{v.Member}, nil
	}
	var all []string
	known, err := identity.LoadPeers(r.node.DataDir)
	if err != nil {
		known = nil // the argument helps
	}
	for name, n := range r.found.State.Nodes {
		if known == nil {
			known = identity.Peers{}
		}
		known[name] = n
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if name != r.id.Name {
			all = append(all, known[name].Addresses...)
		}
	}
	if len(all) == 0 {
		return nil, usagef("run `hactl node rejoin ADDRESS` with the address of any other node", "this node does not know the others any more")
	}
	return all, nil
}

// replace asks the cluster for the new identity and changes the files of this node.
func (v *rejoinVerb) replace(ctx context.Context, r remains, members []string, aside string) (identity.Identity, error) {
	ctx, cancel := v.bounded(ctx, 3*defaultTimeout)
	defer cancel()
	key, csr, err := pki.NewCSR(r.id.Name)
	if err != nil {
		return identity.Identity{}, fmt.Errorf("making this node's key: %w", err)
	}
	p := place{Node: r.node}
	want := api.Join{Name: r.id.Name, ID: pki.NewID(), Role: r.id.Role, CSR: csr, Version: version,
		Addresses: p.peers(r.node.Port), Gossip: p.peers(r.node.GossipPort)}
	j, err := v.ask(ctx, r, members, want)
	if err != nil {
		return identity.Identity{}, err
	}
	id := identity.Identity{Cluster: j.Cluster, ClusterID: j.ClusterID, Name: r.id.Name, NodeID: want.ID, Role: r.id.Role, Incarnation: j.Incarnation}
	if err := verifyJoined(j, key, id, v.Token.Fingerprint); err != nil {
		return id, err
	}
	if err := v.swap(r.node, aside, secrets{j.CA, j.CAKey, j.Cert, key, j.Gossip}, id, j.Nodes); err != nil {
		return id, refusef("mend the cause, run `hactl token --rejoin "+id.Name+"` on another node, then this again with --token",
			"the cluster has admitted the new identity, but writing it here ended with: %w", err)
	}
	return id, nil
}

// ask tries the members in turn until one answers. A moment without a leader, as after a restart, is waited out.
func (v *rejoinVerb) ask(ctx context.Context, r remains, members []string, want api.Join) (api.Joined, error) {
	for tries := 0; ; tries++ {
		j, err := v.askOnce(ctx, r, members, want)
		var e *api.Error
		if err == nil || !errors.As(err, &e) || e.Code != api.CodeNoQuorum || tries == 10 {
			return j, err
		}
		select {
		case <-ctx.Done():
			return j, err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// askOnce goes two steps, so that the old certificate is refused only when nothing hangs on it any more: with it the node
// gets a token for itself, with the token the new identity.
func (v *rejoinVerb) askOnce(ctx context.Context, r remains, members []string, want api.Join) (j api.Joined, err error) {
	for _, addr := range members {
		if v.Token.ID == "" {
			err = v.ownToken(ctx, r, addr)
		}
		if v.Token.ID != "" {
			client := api.NewClient("the node at "+addr, func(ctx context.Context) (net.Conn, error) {
				return wire.DialJoin(ctx, []string{addr}, v.Token.Fingerprint)
			})
			want.Token = v.Token.String()
			j, err = client.PostJoin(ctx, want)
			client.Close()
		}
		var e *api.Error
		if err == nil || !errors.As(err, &e) || e.Code != api.CodeUnreachable {
			return j, err
		}
		e.Hint = "check that had runs there and that no firewall is between: TCP " + portOf(addr)
		if strings.Contains(e.Message, "remote error: tls:") {
			e.Hint = "the cluster no longer accepts the old certificate: run `hactl token --rejoin " + r.id.Name + "` on another node and use --token"
		}
	}
	return j, err
}

// ownToken gets a token for this node by its old certificate.
func (v *rejoinVerb) ownToken(ctx context.Context, r remains, addr string) error {
	client := dialMember(r.cred, addr)
	defer client.Close()
	reply, err := client.Write(ctx, api.Write{Verb: api.VerbToken, Rejoin: r.id.Name, TTL: 10 * time.Minute})
	if err != nil {
		return err
	}
	token, err := pki.ParseToken(reply.Token)
	if err != nil {
		return fmt.Errorf("reading the token of the cluster: %w", err)
	}
	if token.Fingerprint != pki.Fingerprint(r.cred.CA) {
		return refusef("check the address", "the token is of another cluster")
	}
	v.Token = token
	return nil
}

// swap changes the files. While it is under way there is no identity, and had refuses to start.
func (v *rejoinVerb) swap(n config.Node, aside string, s secrets, id identity.Identity, nodes identity.Peers) error {
	old, err := raft.Files(n.DataDir)
	if err != nil {
		return err
	}
	if err := identity.SetAside(n.DataDir, aside, append(old, "started")...); err != nil {
		return err
	}
	tls := filepath.Join(aside, "tls")
	if err := os.MkdirAll(tls, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
	}{{filepath.Join(filepath.Dir(n.TLS.CA), "ca.key"), s.caKey}, {n.TLS.CA, s.ca}, {n.TLS.Key, s.key}, {n.TLS.Cert, s.cert}, {n.TLS.GossipKey, nil}} {
		was, err := os.ReadFile(f.path)
		if err == nil {
			err = pki.WriteFile(filepath.Join(tls, filepath.Base(f.path)), was)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
			return err
		}
		if f.data == nil {
			err = identity.SaveGossipKey(f.path, s.gossip)
		} else {
			err = pki.WriteFile(f.path, f.data)
		}
		if err != nil {
			return err
		}
	}
	if err := identity.SavePeers(n.DataDir, nodes); err != nil {
		return err
	}
	return identity.Save(n.DataDir, id)
}
