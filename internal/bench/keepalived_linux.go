package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hacluster/internal/lab"
)

// keepalived runs on the two members; it knows no votes, so the third node has nothing to do. Both have the same priority: the
// one that has the address keeps it, and a node that comes back does not take it.
type keepalived struct {
	station
	extra    string        // of global_defs
	interval string        // advert_int, seconds
	track    bool          // the service's process is watched
	check    string        // seconds that the check script waits for an answer
	patience time.Duration // master down interval and what comes with it

	procs map[string]*lab.Proc
	from  map[string]int64 // where in the log the present process begins
}

// The three ways it is run. Default is what the manual's examples do. Fast is what an administrator in a hurry may ask for. Extreme
// is the smallest interval, with real-time priority.
func newKeepalived(name string) func(Options) System {
	return func(o Options) System {
		k := &keepalived{station: station{name: name, o: o}, interval: "1", check: "1", patience: 4500 * time.Millisecond}
		switch name {
		case KeepFast:
			k.interval, k.track, k.check, k.patience = "0.1", true, "0.2", 1500*time.Millisecond
		case KeepExtreme:
			k.interval, k.track, k.check, k.patience = "0.01", true, "0.2", 1500*time.Millisecond
			k.extra = "  vrrp_rt_priority 50\n  vrrp_no_swap\n"
		}
		if k.track {
			k.extra += "  vrrp_version 3\n" // fractions of a second
		}
		return k
	}
}

func (k *keepalived) Can(string) bool { return true }

func (k *keepalived) Patience() time.Duration { return k.patience }

// config is the keepalived.conf of a node.
func (k *keepalived) config(node string) string {
	n := k.a.Lab.Node(node)
	watch, use := "", ""
	if k.track {
		watch = fmt.Sprintf("vrrp_track_process service {\n  process %s\n  weight 0\n}\n", k.program(node)[len(k.a.Lab.Dir())+1:])
		use = "  track_process {\n    service\n  }\n"
	}
	return fmt.Sprintf(`global_defs {
  router_id %[1]s
  script_user root
  enable_script_security
%[2]s}
vrrp_script answers {
  script "/usr/bin/curl -sf -o /dev/null -m %[3]s http://127.0.0.1:%[4]d/"
  interval 1
  timeout 1
  fall 1
  rise 1
}
track_file lower {
  file %[5]s
}
%[6]svrrp_instance web {
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority 100
  advert_int %[7]s
  virtual_ipaddress {
    %[8]s
  }
  track_script {
    answers
  }
  track_file {
    lower weight 1
  }
%[9]s}
`, node, k.extra, k.check, servicePort, n.Path("etc", "lower"), watch, k.interval, k.a.VIP, use)
}

func (k *keepalived) Form(ctx context.Context) (*Arena, error) {
	k.procs, k.from = map[string]*lab.Proc{}, map[string]int64{}
	if err := k.lay(ctx); err != nil {
		return nil, err
	}
	if err := k.installService(); err != nil {
		return nil, err
	}
	for _, node := range members {
		n := k.a.Lab.Node(node)
		if err := os.WriteFile(n.Path("etc", "keepalived.conf"), []byte(k.config(node)), 0o644); err != nil {
			return nil, err
		}
		if err := k.start(node); err != nil {
			return nil, err
		}
	}
	if err := k.Ready(ctx); err != nil {
		return nil, err
	}
	return k.a, k.a.instruments()
}

// start starts the service and keepalived on a member.
func (k *keepalived) start(node string) error {
	n := k.a.Lab.Node(node)
	if err := k.startService(node); err != nil {
		return err
	}
	if err := os.WriteFile(n.Path("etc", "lower"), []byte("0\n"), 0o644); err != nil {
		return err
	}
	if st, err := os.Stat(n.Path("log", "keepalived.log")); err == nil {
		k.from[node] = st.Size()
	}
	// The kernel tells of processes in the machine's own network namespace only, so it is started there. It enters the node's before
	// it touches any interface; were that not so, it would work on this machine's.
	p, err := n.StartOutside(lab.ProcOptions{Name: "keepalived", Args: []string{"keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp",
		"--namespace", filepath.Base(n.NetNS()),
		"--use-file", n.Path("etc", "keepalived.conf"), "--pid", n.Path("run", "keepalived.pid"), "--vrrp_pid", n.Path("run", "vrrp.pid")}})
	k.procs[node] = p
	return err
}

// state is what keepalived on a node says it is: MASTER, BACKUP, FAULT, or "" before it says anything.
func (k *keepalived) state(node string) string {
	text, err := os.ReadFile(k.a.Lab.Node(node).Path("log", "keepalived.log"))
	if err != nil || int64(len(text)) < k.from[node] {
		return ""
	}
	const mark = "Entering "
	text = text[k.from[node]:]
	i := bytes.LastIndex(text, []byte(mark))
	if i < 0 {
		return ""
	}
	word, _, _ := strings.Cut(string(text[i+len(mark):]), " ")
	return word
}

func (k *keepalived) Ready(ctx context.Context) error {
	why := ""
	err := poll(ctx, readyLimit, func() bool {
		states := map[string]string{}
		for _, node := range members {
			if end, _ := k.procs[node].State(); end != "" {
				why = "keepalived on " + node + " ended: " + end
				return false
			}
			states[node] = k.state(node)
		}
		owner, err := k.Owner(ctx)
		if err != nil {
			why = fmt.Sprintf("%v, states %v", err, states)
			return false
		}
		why = fmt.Sprintf("%s has the address, states %v", owner, states)
		return states[owner] == "MASTER" && states[other(owner)] == "BACKUP"
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %s: %w%s", k.name, why, err, k.tails())
	}
	return nil
}

func (k *keepalived) daemons(node string) []int { return k.running(node, "keepalived") }

func (k *keepalived) Fault(_ context.Context, scenario, owner string) error {
	switch scenario {
	case PlannedMove:
		return k.procs[owner].Signal(unix.SIGTERM)
	case LowerPriority:
		return os.WriteFile(k.a.Lab.Node(owner).Path("etc", "lower"), []byte("-50\n"), 0o644)
	case DaemonsKilled:
		return k.signalAll(owner, k.daemons(owner), (*lab.Node).Kill9)
	case DaemonsFrozen:
		return k.signalAll(owner, k.daemons(owner), (*lab.Node).Freeze)
	case ServiceKilled, ServiceFrozen:
		pid, err := k.service(owner)
		if err != nil {
			return err
		}
		if scenario == ServiceKilled {
			return k.a.Lab.Node(owner).Kill9(pid)
		}
		return k.a.Lab.Node(owner).Freeze(pid)
	}
	known, err := k.a.network(scenario, owner)
	if !known {
		return errors.New("no such fault: " + scenario)
	}
	return err
}

func (k *keepalived) Mend(_ context.Context, scenario, owner string) error {
	n := k.a.Lab.Node(owner)
	switch scenario {
	case PlannedMove:
		select {
		case <-k.procs[owner].Done():
		case <-time.After(10 * time.Second):
			return errors.New("keepalived does not end")
		}
		return k.start(owner)
	case LowerPriority:
		return os.WriteFile(n.Path("etc", "lower"), []byte("0\n"), 0o644)
	case DaemonsKilled: // what is left of them must go, as at a reboot
		if err := n.PowerCut(); err != nil {
			return err
		}
		fallthrough
	case PowerCut:
		if err := n.PowerOn(); err != nil {
			return err
		}
		return k.start(owner)
	case DaemonsFrozen:
		pids := k.daemons(owner)
		slices.Reverse(pids)
		return k.signalAll(owner, pids, (*lab.Node).Thaw)
	case ServiceKilled:
		return k.startService(owner)
	case ServiceFrozen:
		pid, err := k.service(owner)
		if err != nil {
			return err
		}
		return n.Thaw(pid)
	}
	_, err := k.a.mendNetwork(scenario, owner)
	return err
}

// Close ends everything, and removes the folders that keepalived leaves behind for each network namespace it was in: those of
// this lab, and of labs that were killed.
func (k *keepalived) Close() error {
	err := k.station.Close()
	folders, _ := filepath.Glob("/run/keepalived/had-*-*")
	for _, f := range folders {
		if _, e := os.Stat(filepath.Join("/run/netns", filepath.Base(f))); errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, os.RemoveAll(f))
		}
	}
	return err
}
