package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/api"
	"hacluster/internal/lab"
)

// hit is one strike under way.
type hit struct {
	*arena
	Strike
	plan  Plan // of the round
	fixed bool // the kernel lease stays as it is
	ctx   context.Context
	soon  func(func() string) // does something beside the timeline; what it returns is noted
}

func (h *hit) node() *lab.Node { return h.Lab.Node(h.Node) }

// A fault begins, and returns what ends it, nil when nothing has to; the note says what was drawn. An error says that it has no
// effect here and now: another fault of the round was faster.
type fault func(h *hit) (undo func() error, note string, err error)

// faults has one entry per Kind.
var faults = map[string]fault{
	"agent killed": func(h *hit) (func() error, string, error) {
		return nil, "", h.withAgent(h.Node, (*lab.Node).Kill9)
	},
	"agent frozen": func(h *hit) (func() error, string, error) { return h.freeze(h.withAgentPID) },
	"parent killed": func(h *hit) (func() error, string, error) {
		return h.restart, "", h.Agent(h.Node).Kill9()
	},
	"parent frozen": func(h *hit) (func() error, string, error) { return h.freeze(h.withParentPID) },
	"both killed":   bothKilled,
	"both frozen":   func(h *hit) (func() error, string, error) { return h.freeze(h.withParentPID, h.withAgentPID) },
	"all frozen": func(h *hit) (func() error, string, error) {
		return h.node().ThawAll, "", h.node().FreezeAll()
	},
	"starved":        starved,
	"agent upgraded": upgraded,
	"agent stopped": func(h *hit) (func() error, string, error) {
		return h.restart, "", h.Agent(h.Node).Signal(unix.SIGTERM)
	},
	"power cut": func(h *hit) (func() error, string, error) {
		h.off[h.Node] = true
		return func() error { return errors.Join(h.powerOn(h.Node), h.restart()) }, "", h.node().PowerCut()
	},
	"disk full": diskFull,

	"service killed": func(h *hit) (func() error, string, error) { return nil, "", h.signalService(h.Node, (*lab.Node).Kill9) },
	"service frozen": func(h *hit) (func() error, string, error) { return h.freeze(h.withService("testservice")) },
	"service hangs":  serviceHangs,
	"exclusive killed": func(h *hit) (func() error, string, error) {
		return nil, "", h.withService(exclusiveArg)((*lab.Node).Kill9)
	},
	"exclusive frozen": func(h *hit) (func() error, string, error) { return h.freeze(h.withService(exclusiveArg)) },
	"refuses to stop":  refusesToStop,

	"cable pulled": func(h *hit) (func() error, string, error) {
		return func() error { return h.node().CableIn() }, "", h.node().CableOut()
	},
	"silenced": func(h *hit) (func() error, string, error) {
		return func() error { return h.node().Unsilence() }, "", h.node().Silence()
	},
	"cut from peers": func(h *hit) (func() error, string, error) {
		return h.reconnect, "", h.Lab.IsolateFromPeers(h.Node)
	},
	"cannot reach peers": func(h *hit) (func() error, string, error) {
		return h.reconnect, "", h.Lab.IsolateOutgoing(h.Node)
	},
	"cannot hear peers": func(h *hit) (func() error, string, error) {
		return h.reconnect, "", h.Lab.IsolateIncoming(h.Node)
	},
	"cut from one peer": func(h *hit) (func() error, string, error) {
		peers := h.peers()
		peer := peers[h.Vary%len(peers)]
		return h.reconnect, peer, h.Lab.Partition(h.Node, peer)
	},
	"frames lost": func(h *hit) (func() error, string, error) {
		percent := 5 + h.Vary%60
		return func() error { return h.Lab.Loss(h.Node, 0) }, fmt.Sprintf("%d %%", percent), h.Lab.Loss(h.Node, percent)
	},
	"frames delayed": func(h *hit) (func() error, string, error) {
		d := time.Duration(1+h.Vary%100) * time.Millisecond
		return h.disturbed(lab.Disturbance{Delay: d, Jitter: time.Duration(h.Vary/100) * 5 * time.Millisecond})
	},
	"frames doubled": func(h *hit) (func() error, string, error) {
		return h.disturbed(lab.Disturbance{Duplicate: 10 + h.Vary%80})
	},
	"frames reordered": func(h *hit) (func() error, string, error) {
		return h.disturbed(lab.Disturbance{Reorder: 5 + h.Vary%50, Late: time.Duration(5+h.Vary/10) * time.Millisecond})
	},
	"frames spoiled": func(h *hit) (func() error, string, error) {
		return h.disturbed(lab.Disturbance{Delay: time.Duration(h.Vary%20) * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: h.Vary % 30, Duplicate: 10, Reorder: 10})
	},
	"packet filter flushed": func(h *hit) (func() error, string, error) {
		ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
		defer cancel()
		out, err := h.node().Command(ctx, "nft", "flush", "ruleset").CombinedOutput()
		return nil, string(out), err
	},
	"address removed": func(h *hit) (func() error, string, error) {
		vip := h.VIP
		if h.Role == RoleHolder {
			vip = h.Lab.VIP(1)
		}
		return nil, "", h.node().DelAddr(netip.PrefixFrom(vip.Addr(), 32))
	},

	"leader moves":          func(h *hit) (func() error, string, error) { return h.freeze(h.withAgentPID) },
	"group moved":           groupMoved,
	"drained":               drained,
	"configuration applied": configurationApplied,
}

func (h *hit) peers() (out []string) {
	for _, n := range Nodes {
		if n != h.Node {
			out = append(out, n)
		}
	}
	return out
}

func (h *hit) reconnect() error { return h.Lab.Reconnect(h.Node) }

// disturbed spoils what goes between the node and its peers.
func (h *hit) disturbed(d lab.Disturbance) (func() error, string, error) {
	note := fmt.Sprintf("delay %s + up to %s, %d %% lost, %d %% doubled, %d %% late", ms(d.Delay), ms(d.Jitter), d.Loss, d.Duplicate, d.Reorder)
	return func() error { return h.Lab.DisturbNode(h.Node, lab.Disturbance{}) }, note, h.Lab.DisturbNode(h.Node, d)
}

// restart starts had again if it has ended.
func (h *hit) restart() error {
	if _, gone := h.ended(h.Node); !gone {
		return nil // it is still busy with ending; revive looks again
	}
	return h.start(h.Node)
}

// choose does something to a process.
type choose func(do func(*lab.Node, int) error) error

func (h *hit) withAgentPID(do func(*lab.Node, int) error) error { return h.withAgent(h.Node, do) }

func (h *hit) withParentPID(do func(*lab.Node, int) error) error {
	return do(h.node(), h.Agent(h.Node).PID())
}

// withService finds a process by a part of its command line. A shell that is only about to be it does not count.
func (h *hit) withService(part string) choose {
	return func(do func(*lab.Node, int) error) error {
		for _, pid := range h.node().PIDs() {
			line, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "cmdline"))
			if err == nil && bytes.Contains(line, []byte(part)) && !bytes.HasPrefix(line, []byte("/bin/sh")) {
				return do(h.node(), pid)
			}
		}
		return fmt.Errorf("%s does not run on %s", strings.Trim(part, "\x00"), h.Node)
	}
}

// exclusiveArg is how the command line of the exclusive service looks in /proc.
const exclusiveArg = "\x00exclusive\x00"

// freeze stops processes, and resumes those very processes at its end: by then another may be there in their place.
func (h *hit) freeze(which ...choose) (func() error, string, error) {
	var pids []int
	var errs []error
	for _, c := range which {
		errs = append(errs, c(func(n *lab.Node, pid int) error {
			pids = append(pids, pid)
			return n.Freeze(pid)
		}))
	}
	return func() error {
		var errs []error
		for _, pid := range pids {
			if err := h.node().Thaw(pid); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}, "", errors.Join(errs...)
}

func bothKilled(h *hit) (func() error, string, error) {
	parent := h.Agent(h.Node)
	if err := parent.Freeze(); err != nil { // so that it does not start another
		return nil, "", err
	}
	return h.restart, "", errors.Join(h.withAgent(h.Node, (*lab.Node).Kill9), parent.Kill9())
}

// starved stops all user space of the node most of the time, as under a host that has no time for it.
func starved(h *hit) (func() error, string, error) {
	o := lab.StarveOptions{Percent: 60 + h.Vary%39, Period: time.Duration(20+h.Vary/2) * time.Millisecond}
	return h.node().Feed, fmt.Sprintf("%d %% of %s", o.Percent, ms(o.Period)), h.node().Starve(o)
}

// upgraded exchanges the program as a package does: had ends in order and the other version is started. An agent that is frozen
// by another fault ends later; it is revived then.
func upgraded(h *hit) (func() error, string, error) {
	p := h.Agent(h.Node)
	if err := p.Signal(unix.SIGUSR1); err != nil {
		return nil, "", err
	}
	h.next[h.Node] = !h.next[h.Node]
	select {
	case <-p.Done():
		return nil, "", h.start(h.Node)
	case <-time.After(time.Second):
		return h.restart, "it ends late", nil
	}
}

// diskFull leaves not a byte free, and has the cluster decide something so that it is noticed.
func diskFull(h *hit) (func() error, string, error) {
	if err := h.node().FillDisk(); err != nil {
		return nil, "", err
	}
	end := time.Now().Add(h.For)
	h.soon(func() string {
		n := 0
		for ; time.Now().Before(end) && h.ctx.Err() == nil; n++ {
			_, _ = h.write(h.ctx, api.Write{Verb: api.VerbToken, TTL: time.Minute + time.Duration(n)*time.Second}) // refused is as good
			time.Sleep(50 * time.Millisecond)
		}
		return fmt.Sprintf("%d writes", n)
	})
	return func() error { return errors.Join(h.node().FreeDisk(), h.restart()) }, "", nil
}

// serviceHangs has the service accept connections and not answer them. Where had has put another in its place meanwhile, that one
// is well.
func serviceHangs(h *hit) (func() error, string, error) {
	hung := 0
	err := h.withService("testservice")(func(n *lab.Node, pid int) error {
		hung = pid
		return n.Signal(pid, unix.SIGUSR1)
	})
	return func() error {
		if err := h.node().Signal(hung, unix.SIGUSR2); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	}, "", err
}

// refusesToStop moves the group of a service that ignores what asks it to stop, so that it must be killed.
func refusesToStop(h *hit) (func() error, string, error) {
	if err := os.WriteFile(h.refusal(h.Node), nil, 0o644); err != nil {
		return nil, "", err
	}
	h.later(api.Write{Verb: api.VerbMove, Group: Only, Node: Other(h.Node)})
	return func() error { return os.Remove(h.refusal(h.Node)) }, "", nil
}

// later asks for something beside the timeline: with a second fault there may be nobody to answer for a while.
func (h *hit) later(w api.Write) {
	h.soon(func() string {
		if _, err := h.write(h.ctx, w); err != nil {
			return "refused: " + err.Error()
		}
		return ""
	})
}

func groupMoved(h *hit) (func() error, string, error) {
	group := Group
	if h.Role == RoleHolder {
		group = Only
	}
	h.later(api.Write{Verb: api.VerbMove, Group: group, Node: Other(h.Node)})
	return nil, "", nil
}

func drained(h *hit) (func() error, string, error) {
	h.later(api.Write{Verb: api.VerbDrain, Node: h.Node})
	return func() error {
		_, err := h.write(h.ctx, api.Write{Verb: api.VerbResume, Node: h.Node})
		return err // no leader just now: converge asks again
	}, "", nil
}

// configurationApplied changes something that services do not notice: the profile, the kernel lease, or both.
func configurationApplied(h *hit) (func() error, string, error) {
	p := h.plan
	what := h.Vary % 3
	if what != 1 || h.fixed {
		p.Timing = map[string]string{"lan": "fast", "fast": "lan"}[p.Timing]
	}
	if what != 0 && !h.fixed {
		p.Layer = map[string]string{"gate": "address", "address": "gate"}[p.Layer]
	}
	text := h.render(p)
	h.have = Plan{} // whether it came through or not: the next round puts its own in force
	h.soon(func() string {
		if _, err := h.write(h.ctx, api.Write{Verb: api.VerbApply, Config: text, File: "cluster.toml"}); err != nil {
			return "refused: " + err.Error()
		}
		return "to " + p.Timing + " " + p.Layer
	})
	return nil, "", nil
}
