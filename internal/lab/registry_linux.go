package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// record is what the registry keeps of one lab, written before anything is made.
type record struct {
	Prefix  string    `json:"prefix"`
	Name    string    `json:"name"`
	PID     int       `json:"pid"` // for humans; the lock on the file says who lives
	Started time.Time `json:"started"`
	NetNS   []string  `json:"netns"`
	Cgroup  string    `json:"cgroup,omitempty"`
	Dir     string    `json:"dir"`
	OwnDir  bool      `json:"own_dir"` // Dir was made by the lab and goes with it
	Kept    bool      `json:"kept"`    // left running on purpose
}

// registryDir holds one locked file per lab. Root of a user namespace is an ordinary user outside, and shares /tmp with
// the real root: the directory is named for the user outside.
func registryDir() string {
	uid := strconv.Itoa(os.Geteuid())
	// user_namespaces(7): id inside, id outside, count.
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil {
		if f := strings.Fields(string(b)); len(f) >= 3 && f[0] == uid {
			uid = f[1]
		}
	}
	return filepath.Join(os.TempDir(), "had-lab-"+uid)
}

// register writes the record and returns the locked file; the kernel drops the lock when this process ends, however it ends.
func register(r record) (*os.File, error) {
	dir := registryDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the lab registry: %w", err)
	}
	// Locked under a name that the sweeper ignores, then renamed: it never sees the file unlocked.
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return nil, fmt.Errorf("registering the lab: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = writeRecord(f, r)
	}
	if err == nil {
		err = os.Rename(f.Name(), registryPath(r.Prefix))
	}
	if err != nil {
		os.Remove(f.Name())
		f.Close()
		return nil, fmt.Errorf("registering the lab: %w", err)
	}
	return f, nil
}

func registryPath(prefix string) string { return filepath.Join(registryDir(), prefix+".json") }

func writeRecord(f *os.File, r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	return err
}

// SweepStale removes what labs of processes that no longer live left behind: processes, namespaces, cgroups, directories.
// Labs of living processes and labs left running by Detach are not touched. It returns the prefixes of the removed labs.
func SweepStale() ([]string, error) { return sweep(false) }

// SweepAll is SweepStale for labs left running by Detach too.
func SweepAll() ([]string, error) { return sweep(true) }

func sweep(kept bool) (swept []string, err error) {
	files, err := filepath.Glob(filepath.Join(registryDir(), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("listing the lab registry: %w", err)
	}
	var errs []error
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue // closed by its owner in the meantime
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			f.Close() // its owner lives
			continue
		}
		prefix, err := sweepOne(path, kept)
		if err != nil {
			errs = append(errs, err)
		} else if prefix != "" {
			swept = append(swept, prefix)
		}
		f.Close()
	}
	return swept, errors.Join(errs...)
}

func sweepOne(path string, kept bool) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", nil // its owner closed it between our open and our lock
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || !strings.HasPrefix(r.Prefix, "had-") {
		return "", fmt.Errorf("reading the lab record %s: not one of ours (%v); remove it by hand", path, err)
	}
	if r.Kept && !kept {
		return "", nil
	}
	if err := r.destroy(); err != nil {
		return "", fmt.Errorf("sweeping lab %s: %w", r.Prefix, err)
	}
	return r.Prefix, nil
}

// destroy removes everything the record names, and the record itself when all is gone.
func (r record) destroy() error {
	var errs []error
	errs = append(errs, removeCgroup(r.Cgroup))
	for _, name := range r.NetNS {
		if !strings.HasPrefix(name, r.Prefix+"-") {
			errs = append(errs, fmt.Errorf("network namespace %q does not belong to lab %s", name, r.Prefix))
			continue
		}
		path := filepath.Join(netnsDir, name)
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil {
			errs = append(errs, killAllIn(fmt.Sprintf("net:[%d]", st.Ino), "", 5*time.Second))
		}
		errs = append(errs, removeNetNS(path))
	}
	if r.Dir != "" {
		errs = append(errs, unmountUnder(r.Dir)) // small disks
	}
	if r.OwnDir && strings.HasPrefix(filepath.Base(r.Dir), r.Prefix) {
		errs = append(errs, os.RemoveAll(r.Dir))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(registryPath(r.Prefix))
}

// killAllIn kills every process of a namespace and of a cgroup ("" for none) until none is left. Both are needed: a service
// manager inside a node may move what it starts to groups of its own, and a process may leave the network namespace.
func killAllIn(link, cg string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if cg != "" && populated(cg) {
			killCgroup(cg)
		}
		pids := pidsIn(link)
		for _, pid := range pids {
			signalIn(link, pid, unix.SIGKILL) // gone already, or seen again in the next round
		}
		if len(pids) == 0 && (cg == "" || !populated(cg)) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("killing all processes of %s: %d left after %s", link, len(pids), limit)
		}
	}
}
