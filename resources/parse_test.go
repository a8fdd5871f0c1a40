package resources

import (
	"path"
	"strings"
	"testing"
)

func FuzzRecord(f *testing.F) {
	good := record{Group: "g", Resource: "app", Instance: "0123456789abcdef", Boot: "b", PID: 77, Start: 5, Cgroup: "/sys/fs/cgroup/had-resource-x", Epoch: 9}
	f.Add(good.marshal())
	f.Add([]byte(""))
	f.Add([]byte("1234\n"))
	f.Add([]byte(strings.Replace(string(good.marshal()), "pid=77", "pid=1", 1)))
	f.Add([]byte(strings.Replace(string(good.marshal()), "/had-resource-x", "", 1)))
	f.Add([]byte(strings.Replace(string(good.marshal()), "had-resource-x", "had-resource-x/..", 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if r.PID < 0 || r.PID == 1 || r.Cgroup != "" && !strings.HasPrefix(path.Base(r.Cgroup), cgroupPrefix) {
			t.Fatalf("a record that could kill a machine: %+v", r)
		}
		if again, err := parseRecord(r.marshal()); err != nil || again != r {
			t.Fatalf("got %+v, %v, want %+v", again, err, r)
		}
	})
}

func TestRecordThatCouldKillStrangersIsRefused(t *testing.T) {
	good := record{Group: "g", Resource: "app", Instance: "0123456789abcdef", Boot: "b", PID: 77, Start: 5, Epoch: 9}
	if r, err := parseRecord(good.marshal()); err != nil || r != good {
		t.Fatalf("got %+v, %v, want %+v", r, err, good)
	}
	for name, change := range map[string]func(*record){
		"process 1":            func(r *record) { r.PID = 1 },
		"every process":        func(r *record) { r.PID = -1 },
		"the root cgroup":      func(r *record) { r.Cgroup = "/sys/fs/cgroup" },
		"a cgroup above":       func(r *record) { r.Cgroup = "/sys/fs/cgroup/had-resource-x/.." },
		"a relative cgroup":    func(r *record) { r.Cgroup = "had-resource-x" },
		"an empty instance":    func(r *record) { r.Instance = "" },
		"a line in a name":     func(r *record) { r.Group = "g\npid=5" },
		"an unknown key":       func(r *record) { r.Group = "g\nmore=5" },
		"a line without value": func(r *record) { r.Group = "g\nmore" },
	} {
		bad := good
		change(&bad)
		if r, err := parseRecord(bad.marshal()); err == nil {
			t.Errorf("%s: got %+v, want an error", name, r)
		}
	}
	whole := string(good.marshal())
	for cut := range len(whole) {
		if r, err := parseRecord([]byte(whole[:cut])); err == nil {
			t.Errorf("cut at %d: got %+v, want an error", cut, r)
		}
	}
}
