package resources

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// record is what StateDir/NAME.pid holds: enough to find a process again after a restart of the agent, and never to take
// another one for it. It is written before the start with PID 0, so that an agent killed right after the fork still
// finds the child by Cgroup or Instance.
type record struct {
	Group    string
	Resource string
	Instance string // random, in the environment of all that was started
	Boot     string // boot id; in another boot nothing of this is left
	PID      int
	Start    uint64 // field 22 of /proc/PID/stat
	Cgroup   string // own cgroup, empty without one
	Epoch    uint64
}

const (
	recordHead   = "had-process 1"
	cgroupPrefix = "had-resource-" // a record can name only such a cgroup: a damaged file must never kill a machine
)

// marshal writes one key=value per line.
func (r record) marshal() []byte {
	return fmt.Appendf(nil, "%s\ngroup=%s\nresource=%s\ninstance=%s\nboot=%s\npid=%d\nstart=%d\ncgroup=%s\nepoch=%d\n",
		recordHead, r.Group, r.Resource, r.Instance, r.Boot, r.PID, r.Start, r.Cgroup, r.Epoch)
}

// parseRecord is strict: every key once, nothing else. A record that is in doubt must not decide what is killed.
func parseRecord(b []byte) (record, error) {
	lines := strings.Split(string(b), "\n")
	if lines[0] != recordHead || lines[len(lines)-1] != "" {
		return record{}, errors.New("not a complete pid file of this program")
	}
	kv := map[string]string{}
	for _, l := range lines[1 : len(lines)-1] {
		k, v, ok := strings.Cut(l, "=")
		if _, twice := kv[k]; !ok || twice {
			return record{}, fmt.Errorf("unexpected line %q", l)
		}
		kv[k] = v
	}
	for _, k := range []string{"group", "resource", "instance", "boot", "pid", "start", "cgroup", "epoch"} {
		if _, ok := kv[k]; !ok {
			return record{}, fmt.Errorf("no %s in it", k)
		}
	}
	if len(kv) != 8 {
		return record{}, errors.New("unknown keys in it")
	}
	pid, err1 := strconv.Atoi(kv["pid"])
	start, err2 := strconv.ParseUint(kv["start"], 10, 64)
	epoch, err3 := strconv.ParseUint(kv["epoch"], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return record{}, err
	}
	r := record{Group: kv["group"], Resource: kv["resource"], Instance: kv["instance"], Boot: kv["boot"], PID: pid,
		Start: start, Cgroup: kv["cgroup"], Epoch: epoch}
	if pid < 0 || pid == 1 {
		return record{}, fmt.Errorf("pid %d cannot be a resource", pid)
	}
	if len(r.Instance) < 16 {
		return record{}, errors.New("instance is too short")
	}
	if c := r.Cgroup; c != "" && (!path.IsAbs(c) || path.Clean(c) != c || !strings.HasPrefix(path.Base(c), cgroupPrefix)) {
		return record{}, fmt.Errorf("cgroup %q is not one of this program", c)
	}
	return r, nil
}
