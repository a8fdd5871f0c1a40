package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsDir is where ip-netns(8) looks for names, so that "ip netns exec" works on a lab's namespaces.
const netnsDir = "/run/netns"

// netNS is one named network namespace.
type netNS struct {
	path string // file that keeps it alive
	link string // identity as /proc/PID/ns/net shows it: "net:[4026532345]"
	file *os.File
	h    *netlink.Handle // works inside, from any goroutine
}

// newNetNS makes a namespace of that name with loopback up.
func newNetNS(name string) (*netNS, error) {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return nil, fmt.Errorf("making %s: %w", netnsDir, err)
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("naming a network namespace: %w", err)
	}
	f.Close()
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making network namespace %s: %w", name, err)
		}
		// thread-self, not self: the latter is the main thread's namespace.
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting network namespace %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, removeNetNS(path))
	}
	n := &netNS{path: path}
	if err := n.open(); err != nil {
		return nil, errors.Join(err, n.remove())
	}
	return n, nil
}

// open takes the descriptors of an existing namespace.
func (n *netNS) open() (err error) {
	if n.file, err = os.Open(n.path); err != nil {
		return fmt.Errorf("opening network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &st); err != nil {
		return fmt.Errorf("identifying network namespace %s: %w", n.path, err)
	}
	n.link = "net:[" + strconv.FormatUint(st.Ino, 10) + "]"
	return n.do(func() error {
		if n.h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("opening netlink in %s: %w", n.path, err)
		}
		lo, err := n.h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("finding loopback in %s: %w", n.path, err)
		}
		return n.h.LinkSetUp(lo)
	})
}

// do calls f on a thread inside the namespace. Sockets made by f stay in the namespace after the call.
func (n *netNS) do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace %s: %w", n.path, err)
		}
		return f()
	})
}

// onOwnThread calls f on a locked thread and puts the thread's network namespace back. A thread that cannot be put back is
// left locked: it ends with its goroutine and is never used again.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- fmt.Errorf("opening the own network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func (n *netNS) remove() error {
	n.close()
	return removeNetNS(n.path)
}

func (n *netNS) close() {
	if n.h != nil {
		n.h.Close()
	}
	if n.file != nil {
		n.file.Close()
	}
}

// removeNetNS forgets a named namespace; the kernel frees it when its last process and socket are gone.
func removeNetNS(path string) error {
	// EINVAL: nothing mounted there, which is the goal.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing network namespace: %w", err)
	}
	return nil
}

// netnsLink is the identity of the namespace a process lives in; it fails for processes that are gone or only zombies.
func netnsLink(pid int) (string, error) {
	return os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
}

// pidsIn lists the living processes of a namespace, this process excepted.
func pidsIn(link string) []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		if l, err := netnsLink(pid); err == nil && l == link {
			pids = append(pids, pid)
		}
	}
	return pids
}

// signalIn sends a signal to a process only if it lives in that namespace.
func signalIn(link string, pid int, sig unix.Signal) error {
	return signalIf(pid, sig, func() bool { l, err := netnsLink(pid); return err == nil && l == link })
}

// signalIf sends a signal to a process that is ours. A pidfd is taken first and ours asked after, so that a reused process id
// is never hit.
func signalIf(pid int, sig unix.Signal, ours func() bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("signalling process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !ours() {
		return fmt.Errorf("signalling process %d: %w: not a living process of this node", pid, unix.ESRCH)
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("signalling process %d: %w", pid, err)
	}
	return nil
}
