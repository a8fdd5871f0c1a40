package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/internal/identity"
	"hacluster/internal/pki"
	"hacluster/placement"
	"hacluster/raft"
)

// forceVerb is `hactl quorum force`: the majority is lost for good, this node goes on alone.
type forceVerb struct {
	*env
	Lost   []string // names of the nodes that are gone; empty: ask
	Sure   bool     // every question is answered with yes
	Behind bool     // although another survivor knows more
}

func quorumCommand(e *env) *cli.Command {
	return &cli.Command{Name: "quorum", Usage: "go on when a majority is lost for good", Subcommands: []*cli.Command{
		{Name: "force", Usage: "let this node go on alone; asks what a careful colleague would ask",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "lost", Usage: "`NODES` that are gone for good, separated by commas"},
				&cli.BoolFlag{Name: "although-behind", Usage: "although another survivor knows more: what only it knows is lost"},
				&cli.BoolFlag{Name: "yes-i-know", Usage: "do not ask; for scripts, with --lost"},
			},
			Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				v := &forceVerb{env: e, Lost: names(c.String("lost")), Sure: c.Bool("yes-i-know"), Behind: c.Bool("although-behind")}
				if v.Sure && len(v.Lost) == 0 {
					return usagef("name the lost nodes with --lost", "--yes-i-know needs --lost")
				}
				return v.run(c.Context)
			}},
	}}
}

func names(list string) []string {
	return slices.Compact(slices.Sorted(slices.Values(strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }))))
}

// heard is what another node of the cluster let be heard of itself.
type heard struct {
	Name    string
	Voter   bool
	Answers bool // something accepts connections at one of its addresses
	Status  *api.Status
	Err     error // why there is no status
}

// position is how far its log goes; false when it did not say.
func (h heard) position() (raft.Position, bool) {
	if h.Status == nil || h.Status.Log == nil {
		return raft.Position{}, false
	}
	l := h.Status.Log
	return raft.Position{Term: l.Term, Index: l.Index, Applied: l.Applied}, true
}

func (v *forceVerb) run(ctx context.Context) error {
	r, err := v.look()
	switch {
	case err != nil:
		return err
	case r.storeErr != nil:
		return refusef("use another survivor. If there is none, the cluster is lost: `hactl init` and `hactl apply` make a new one",
			"this node cannot go on: %s", r.finding())
	case r.cred == nil:
		return refusef("restore the files named in "+v.Config, "the certificate of this node cannot be read")
	}
	if !slices.Contains(r.found.Servers, raft.Server{Name: r.id.Name, Voter: true}) {
		return refusef("use a survivor that has a vote", "this node has no vote, its copy of the state may be old")
	}
	others := v.listen(ctx, r)
	if !v.JSON {
		v.show(r, others)
	}
	if err := v.needed(r, others); err != nil {
		return err
	}
	ask := v.asker()
	if len(v.Lost) == 0 {
		text, err := ask.line(ctx, "Which nodes are gone for good? Names, separated by commas:", "--lost NODES --yes-i-know")
		if err != nil {
			return err
		}
		v.Lost = names(text)
	}
	if err := v.checkLost(r, others); err != nil {
		return err
	}
	if err := v.newest(r, others); err != nil {
		return err
	}
	if err := v.confirm(ctx, ask, r); err != nil {
		return err
	}
	keep, err := v.force(r)
	if err != nil {
		return err
	}
	return v.next(r, keep)
}

// listen asks every other node at once, as this node with its certificate.
func (v *forceVerb) listen(ctx context.Context, r remains) []heard {
	ctx, cancel := v.bounded(ctx, 5*time.Second)
	defer cancel()
	voters := map[string]bool{}
	for _, s := range r.found.Servers {
		voters[s.Name] = s.Voter
	}
	var out []heard
	for _, name := range slices.Sorted(maps.Keys(r.found.State.Nodes)) {
		if name != r.id.Name {
			out = append(out, heard{Name: name, Voter: voters[name], Err: errors.New("does not answer")})
		}
	}
	var all sync.WaitGroup
	for i := range out {
		h := &out[i]
		all.Go(func() {
			for _, addr := range r.found.State.Nodes[h.Name].Addresses {
				h.hear(ctx, r.cred, addr)
				if h.Status != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return out
}

func (h *heard) hear(ctx context.Context, cred *pki.Credentials, addr string) {
	one, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(one, "tcp", addr)
	if err != nil {
		return
	}
	conn.Close()
	h.Answers = true
	client := dialMember(cred, addr)
	defer client.Close()
	st, err := client.Status(one)
	if err != nil {
		h.Err = err
		return
	}
	h.Status, h.Err = &st, nil
}

// show lists the nodes with how far their logs go.
func (v *forceVerb) show(r remains, others []heard) {
	v.printf("Cluster  %s, as node %s knows it\n\n", clean(r.id.Cluster), r.id.Name)
	rows := [][]string{{"NODE", "VOTE", "HERE", "LOG"}, {r.id.Name, "yes", "this node", sayPosition(r.found.Position)}}
	for _, h := range others {
		vote, here, at := "no", "does not answer", ""
		if h.Voter {
			vote = "yes"
		}
		if h.Answers {
			here = "something answers"
		}
		if h.Status != nil {
			here = "answers"
		}
		if p, ok := h.position(); ok {
			at = sayPosition(p)
		}
		rows = append(rows, []string{h.Name, vote, here, at})
	}
	width := make([]int, 4)
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	for _, row := range rows {
		v.printf("%s\n", strings.TrimRight(fmt.Sprintf("%-*s  %-*s  %-*s  %s", width[0], row[0], width[1], row[1], width[2], row[2], row[3]), " "))
	}
	if n := len(r.found.State.Events); n > 0 {
		e := r.found.State.Events[n-1]
		v.printf("\nNewest   %s\n", wrap(fmt.Sprintf("that this node knows of: %s %s", e.Time.In(v.Zone).Format(time.DateTime), clean(e.Reason.Text)), 9, 9))
	}
	v.printf("\n")
}

func sayPosition(p raft.Position) string {
	return fmt.Sprintf("entry %d of term %d, %d applied", p.Index, p.Term, p.Applied)
}

// needed refuses where a majority may still be had without force.
func (v *forceVerb) needed(r remains, others []heard) error {
	voters, alive := 0, 1
	for _, s := range r.found.Servers {
		if s.Voter {
			voters++
		}
	}
	for _, h := range others {
		if h.Status != nil && h.Status.Leader != "" {
			return refusef("start this one: `systemctl start had`", "the cluster has its quorum: %s says that %s leads", h.Name, h.Status.Leader)
		}
		if h.Voter && h.Status != nil {
			alive++
		}
	}
	if need := voters/2 + 1; alive >= need {
		return refusef("start this one: `systemctl start had`", "nothing is to be forced: with this node %d of %d voters are there, %d are needed", alive, voters, need)
	}
	return nil
}

// checkLost holds what the administrator says against what is seen.
func (v *forceVerb) checkLost(r remains, others []heard) error {
	for _, name := range v.Lost {
		i := slices.IndexFunc(others, func(h heard) bool { return h.Name == name })
		switch {
		case name == r.id.Name:
			return refusef("name the others", "%s is this node", name)
		case i < 0:
			return refusef("the other nodes are: "+strings.Join(slices.Sorted(maps.Keys(r.found.State.Nodes)), ", "), "%s is not a node of this cluster", name)
		case others[i].Answers:
			return refusef("bring it back into the cluster: start had there, or mend its network", "%s is not gone: something answers at its address", name)
		}
	}
	for _, h := range others {
		if !slices.Contains(v.Lost, h.Name) && h.Status == nil {
			return refusef("start had there, so that its state can be compared with the one here; or name it as lost too, if it is",
				"%s is not named as lost, but does not tell its state: %v", h.Name, h.Err)
		}
	}
	return nil
}

// newest refuses when another survivor knows more.
func (v *forceVerb) newest(r remains, others []heard) error {
	best, at := r.id.Name, r.found.Position
	for _, h := range others {
		if p, ok := h.position(); ok && h.Voter && p.Compare(at) > 0 {
			best, at = h.Name, p
		}
	}
	if best == r.id.Name {
		if !v.JSON {
			v.printf("Choice   %s\n\n", wrap(fmt.Sprintf("%s is right: no survivor knows more. What only lost nodes knew is lost.", best), 9, 9))
		}
		return nil
	}
	if v.Behind {
		return nil
	}
	return refusef(fmt.Sprintf("run this on %s instead, with had stopped there; --although-behind takes this node all the same, and what only %s knows is lost", best, best),
		"%s knows more (%s) than this node (%s)", best, sayPosition(at), sayPosition(r.found.Position))
}

// confirm asks what a careful colleague would ask.
func (v *forceVerb) confirm(ctx context.Context, ask *asker, r remains) error {
	if v.Sure {
		return nil
	}
	const flags = "--yes-i-know"
	lost := strings.Join(v.Lost, ", ")
	v.printf("%s\n", wrap("Lost nodes that see each other may be a majority: started with their old disks they go on without this node, own the same "+
		"groups, and both answer for the same addresses. No software can tell that from here.", 0, 0))
	if err := ask.yes(ctx, fmt.Sprintf("Are %s powered off, and will they never start again with their disks as they are?", lost), flags); err != nil {
		return err
	}
	var owned []string
	for _, g := range slices.Sorted(maps.Keys(r.found.State.Groups)) {
		if owner := r.found.State.Groups[g].Owner; owner != "" && owner != r.id.Name {
			owned = append(owned, g+" (on "+owner+")")
		}
	}
	if len(owned) > 0 {
		v.printf("\n%s\n", wrap("Owned by others: "+strings.Join(owned, ", ")+". They start here after the takeover wait. If they still run there, they will run twice.", 0, 0))
		if err := ask.yes(ctx, "Do you know for certain that they run there no longer?", flags); err != nil {
			return err
		}
	}
	name, err := ask.line(ctx, "\nThe state from before is kept, but there is no way back. Type the name of the cluster to go on:", flags)
	if err != nil {
		return err
	}
	if name != r.id.Cluster {
		return refusef("run the command again", "%q is not %q; nothing was changed", name, r.id.Cluster)
	}
	return nil
}

// force changes the disk: the identity first, so that an interrupted run leaves a node that refuses to start.
func (v *forceVerb) force(r remains) (keep string, err error) {
	keep = filepath.Join(r.node.DataDir, "before-force-"+v.Now().Format("20060102-150405"))
	next := r.id
	next.Incarnation = pki.NewID()
	evidence := []string{"lost: " + strings.Join(v.Lost, ", "), "this node's log: " + sayPosition(r.found.Position), "the state from before is in " + keep}
	last := placement.Command{Kind: placement.CmdForce, At: v.Now(), By: r.id.Name, Node: r.id.Name, ID: next.Incarnation, Reason: placement.Reason{
		Rule: placement.RuleQuorumForce, Text: fmt.Sprintf("an administrator let %s go on alone: the majority is lost for good", r.id.Name), Evidence: evidence}}
	if err := identity.Save(r.node.DataDir, next); err != nil {
		return "", err
	}
	if err := raft.Recover(r.node.DataDir, keep, r.id.Name, last, placement.State.Apply, nil); err != nil {
		found, lerr := raft.Look(r.node.DataDir, placement.State.Apply)
		if lerr == nil && found.State.Incarnation == r.id.Incarnation { // nothing has happened yet
			err = errors.Join(err, identity.Save(r.node.DataDir, r.id))
		}
		return "", err
	}
	return keep, nil
}

// forced is what `quorum force` prints with -o json.
type forced struct {
	Cluster string   `json:"cluster"`
	Node    string   `json:"node"`
	Lost    []string `json:"lost"`
	Rejoin  []string `json:"rejoin"` // every other node: its certificate is refused
	Kept    string   `json:"kept"`   // where the state from before is
}

func (v *forceVerb) next(r remains, keep string) error {
	out := forced{Cluster: r.id.Cluster, Node: r.id.Name, Lost: v.Lost, Rejoin: []string{}, Kept: keep}
	for _, name := range slices.Sorted(maps.Keys(r.found.State.Nodes)) {
		if name != r.id.Name {
			out.Rejoin = append(out.Rejoin, name)
		}
	}
	if v.JSON {
		return v.printJSON(out)
	}
	member := "ADDRESS"
	if len(r.node.Addresses) > 0 {
		member = r.node.Addresses[0]
	}
	v.printf("\nNode %s goes on alone as cluster %s.\nThe state from before is in %s.\n\nNext:\n", r.id.Name, clean(r.id.Cluster), keep)
	v.printf("  1. here, as root:  systemctl start had && hactl status\n")
	v.printf("     Groups of the others come online here after the takeover wait.\n")
	v.printf("  2. One node alone survives no loss. Bring the others back, with had stopped:\n")
	for _, name := range out.Rejoin {
		v.printf("       here:   hactl token --rejoin %s\n       on %s:  hactl node rejoin %s --token TOKEN\n", name, name, member)
	}
	v.printf("     One that is gone for good:  hactl node remove NODE\n")
	v.printf("  3. Do not start had on them before: their certificates are refused here, but\n     they do not refuse each other.\n")
	return nil
}
