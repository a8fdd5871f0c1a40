package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// BaseOptions describes a base tree for systemd nodes.
type BaseOptions struct {
	Packages []string // optional: packages to install besides systemd and network tools
	CacheDir string   // optional: $HAD_LAB_CACHE, else /var/cache/had-lab
}

// ServicePackages is what the Tomcat and Apache tests install in the base.
var ServicePackages = []string{"openjdk-17-jre-headless", "tomcat10", "apache2", "libapache2-mod-jk"}

var basePackages = []string{"systemd", "systemd-sysv", "dbus", "iproute2", "procps", "curl", "ca-certificates", "nftables"}

// aptSource is one archive that the host itself installs from.
type aptSource struct{ URI, Release, Component string }

// SystemdBase finds or makes a Debian tree with those packages and returns its path. It is the read-only lower layer of all
// nodes: never change it while a node runs. Kept in the cache as a directory, or found there as NAME.tar.zst and unpacked.
// Making it takes one to two minutes, root, debootstrap and the archives of the host's apt configuration.
func SystemdBase(ctx context.Context, o BaseOptions) (string, error) {
	dir, err := o.path()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil { // it only ever appears complete, by a rename
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("making the cache of base trees: %w", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return "", fmt.Errorf("locking the cache of base trees: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // another test may be making it
		return "", fmt.Errorf("locking the cache of base trees: %w", err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := dir + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return "", fmt.Errorf("removing a half-made base tree: %w", err)
	}
	if _, err := os.Stat(dir + ".tar.zst"); err == nil {
		err = unpackBase(ctx, dir+".tar.zst", tmp)
		if err != nil {
			return "", errors.Join(err, os.RemoveAll(tmp))
		}
	} else if err := makeBase(ctx, tmp, o.Packages); err != nil {
		return "", errors.Join(fmt.Errorf("making a base tree: %w", err), os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("keeping the base tree: %w", err)
	}
	return dir, nil
}

// BasePath is where SystemdBase keeps that tree, made or not; for tests that only run where it is there already.
func BasePath(o BaseOptions) (dir string, made bool, err error) {
	if dir, err = o.path(); err != nil {
		return "", false, err
	}
	for _, p := range []string{dir, dir + ".tar.zst"} {
		if _, err := os.Stat(p); err == nil {
			return dir, true, nil
		}
	}
	return dir, false, nil
}

// path names a tree for its suite and packages, so that a change of either makes a new one.
func (o BaseOptions) path() (string, error) {
	cache := o.CacheDir
	if cache == "" {
		cache = os.Getenv("HAD_LAB_CACHE")
	}
	if cache == "" {
		cache = "/var/cache/had-lab"
	}
	suite, err := hostSuite()
	if err != nil {
		return "", err
	}
	all := slices.Sorted(slices.Values(append(slices.Clone(basePackages), o.Packages...)))
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(all), " ")))
	return filepath.Join(cache, fmt.Sprintf("base-%s-%x", suite, sum[:4])), nil
}

// hostSuite is the release the host runs: the nodes get the same.
func hostSuite() (string, error) {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("finding the host's release: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"`), nil
		}
	}
	return "", errors.New("finding the host's release: /etc/os-release has no VERSION_CODENAME")
}

// PackBase writes the tree as NAME.tar.zst next to it, to be carried to other machines (2.5 s instead of 2 min).
func PackBase(ctx context.Context, dir string) error {
	return command(ctx, "tar", "--zstd", "--numeric-owner", "--xattrs", "-C", dir, "-cf", dir+".tar.zst", ".")
}

func unpackBase(ctx context.Context, archive, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpacking a base tree: %w", err)
	}
	return command(ctx, "tar", "--zstd", "--numeric-owner", "--xattrs", "-C", dir, "-xf", archive)
}

// command runs a tool; its output is part of the error.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s: %w: %s", name, err, bytes.TrimSpace(out[max(0, len(out)-2000):]))
	}
	return nil
}

// hostSources asks apt for the host's own archives of a suite, updates and security included.
func hostSources(ctx context.Context, suite string) ([]aptSource, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("asking apt for the host's archives: %w", err)
	}
	return parseSources(string(out), suite), nil
}

// parseSources keeps the suite itself and its own pockets; the suite comes first.
func parseSources(out, suite string) []aptSource {
	var s []aptSource
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" {
			continue
		}
		a := aptSource{f[0], f[1], f[2]}
		if slices.Contains(s, a) {
			continue
		}
		if a.Release == suite {
			s = slices.Insert(s, 0, a)
		} else if strings.HasPrefix(a.Release, suite+"-") {
			s = append(s, a)
		}
	}
	return s
}

// chrootScript runs in namespaces of its own, so that its mounts cannot stay behind.
const chrootScript = `set -eu
root=$1; shift
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
ln -s /proc/self/fd "$root/dev/fd"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
run() { chroot "$root" "$@"; }
if [ $# -gt 0 ]; then
	run apt-get -q update
	run apt-get -q -y --no-install-recommends install "$@"
	run apt-get clean
fi
for u in tomcat10.service apache2.service; do
	if [ -e "$root/lib/systemd/system/$u" ]; then run systemctl disable "$u"; fi
done
run systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
	systemd-timesyncd.service getty.target console-getty.service getty@tty1.service
run systemctl set-default multi-user.target
`

// makeBase runs debootstrap and installs the packages.
func makeBase(ctx context.Context, dir string, packages []string) error {
	suite, err := hostSuite()
	if err != nil {
		return err
	}
	sources, err := hostSources(ctx, suite)
	if err != nil {
		return err
	}
	if len(sources) == 0 || sources[0].Release != suite {
		return fmt.Errorf("the host's apt configuration names no archive of its own release %q", suite)
	}
	if err := command(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(basePackages, ","), suite, dir, sources[0].URI); err != nil {
		return err
	}
	var list strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&list, "deb %s %s %s\n", s.URI, s.Release, s.Component)
	}
	policy := filepath.Join(dir, "usr/sbin/policy-rc.d")
	files := map[string]string{
		filepath.Join(dir, "etc/apt/sources.list"): list.String(),
		policy: "#!/bin/sh\nexit 101\n", // invoke-rc.d(8): starting is forbidden
		filepath.Join(dir, "etc/apt/apt.conf.d/90lab"): aptProxy(ctx),
		filepath.Join(dir, "etc/machine-id"):           "",
		filepath.Join(dir, "etc/fstab"):                "",
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(policy, 0o755); err != nil {
		return err
	}
	// Names are resolved as on the host while packages are fetched.
	if b, err := os.ReadFile("/etc/resolv.conf"); err == nil {
		if err := os.WriteFile(filepath.Join(dir, "etc/resolv.conf"), b, 0o644); err != nil {
			return err
		}
	}
	args := append([]string{"--mount", "--pid", "--fork", "/bin/sh", "-c", chrootScript, "chroot", dir}, packages...)
	if err := command(ctx, "unshare", args...); err != nil {
		return err
	}
	return errors.Join(os.Remove(policy), os.WriteFile(filepath.Join(dir, "etc/resolv.conf"), nil, 0o644))
}

// aptProxy hands the host's proxy for apt on, if it has one.
func aptProxy(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%f %v%n", "Acquire::http::Proxy", "Acquire::https::Proxy").Output()
	if err != nil {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && v != "" {
			fmt.Fprintf(&b, "%s %q;\n", k, v)
		}
	}
	return b.String()
}
