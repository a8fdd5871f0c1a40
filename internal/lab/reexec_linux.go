package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// reexecEnv marks the inner process of Reexec.
const reexecEnv = "HAD_LAB_USERNS"

// permitted tests whether this process may make what a lab needs.
func permitted() error {
	for _, tool := range []string{"nsenter", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: %w (packages util-linux and nftables)", ErrNotPermitted, err)
		}
	}
	err := onOwnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err != nil {
		return fmt.Errorf("%w (%w): run as root, or where user namespaces are allowed", ErrNotPermitted, err)
	}
	return nil
}

// Reexec lets a program that is not root use the lab: it runs the program again as root of a new user namespace with its own
// mounts, processes and network, and waits for it. To be called at the start of main or TestMain:
//
//	if code, done, err := lab.Reexec(); done { os.Exit(code) } else if err != nil { ... }
//
// done is false for real root and in the inner process: go on. An error says that the kernel or a security module does not
// permit it (wraps ErrNotPermitted). In that mode nodes have no cgroups, so FreezeAll stops process by process, and
// BootSystemd is not possible. Everything dies with the inner process. The process of a StallMeter begins here too.
func Reexec() (code int, done bool, err error) {
	if os.Getenv(stallsEnv) != "" {
		return reportStalls(), true, nil
	}
	if os.Getenv(reexecEnv) != "" {
		return 0, false, enterUserNS()
	}
	if os.Geteuid() == 0 {
		return 0, false, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, false, fmt.Errorf("finding the own program: %w", err)
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), reexecEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:   unix.SIGKILL, // bound to the thread that forks, hence the lock
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, false, fmt.Errorf("%w: user namespaces refused (%w): see kernel.unprivileged_userns_clone, "+
			"user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns, or run as root", ErrNotPermitted, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go forwardSignals(ctx, cmd.Process)
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1), true, nil // -1 when it was killed by a signal
	}
	return 0, err == nil, err
}

// forwardSignals hands on what asks this process to end; the inner process is the one that must clean up.
func forwardSignals(ctx context.Context, p *os.Process) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(c)
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-c:
			p.Signal(s) // it may be gone already
		}
	}
}

// enterUserNS gives the inner process its own /proc, /run and /sys.
func enterUserNS() error {
	os.Unsetenv(reexecEnv)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("%w: making mounts private in the user namespace (%w): a security module may deny it", ErrNotPermitted, err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("%w: mounting /proc in the user namespace (%w): containers often hide parts of /proc", ErrNotPermitted, err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("%w: mounting /run in the user namespace: %w", ErrNotPermitted, err)
	}
	// Best effort: sysfs shows the network namespace it was mounted in, which nothing here relies on.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "")
	return nil
}
