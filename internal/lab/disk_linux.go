package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// fillName is the file that fills a small disk.
const fillName = "lab-filler"

// SmallDisk gives a directory of the node (parts are joined to its root) a disk of its own of that many bytes, to be filled by
// FillDisk. To be called before anything is in the directory. Its files outlive PowerCut, as files do. Close removes it.
func (n *Node) SmallDisk(size int64, parts ...string) error {
	dir := n.Path(parts...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making a small disk on node %s: %w", n.Name, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		return fmt.Errorf("making a small disk on node %s: %s is not empty (%v)", n.Name, dir, err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=755", size)); err != nil {
		return fmt.Errorf("making a small disk on node %s: %w", n.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disk = dir
	return nil
}

// FillDisk fills the node's small disk to the last byte: every write of new data fails with ENOSPC until FreeDisk.
func (n *Node) FillDisk() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.disk == "" {
		return fmt.Errorf("filling the disk of node %s: it has no small disk", n.Name)
	}
	f, err := os.OpenFile(filepath.Join(n.disk, fillName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("filling the disk of node %s: %w", n.Name, err)
	}
	defer f.Close()
	for chunk := make([]byte, 64<<10); len(chunk) > 0; {
		if _, err = f.Write(chunk); errors.Is(err, unix.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			return fmt.Errorf("filling the disk of node %s: %w", n.Name, err)
		}
	}
	return nil
}

// FreeDisk undoes FillDisk; without it nothing happens.
func (n *Node) FreeDisk() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.disk == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(n.disk, fillName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("freeing the disk of node %s: %w", n.Name, err)
	}
	return nil
}

// unmountUnder detaches all mounts below a directory, the innermost first.
func unmountUnder(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
