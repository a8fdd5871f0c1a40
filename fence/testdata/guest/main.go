//go:build linux

// Command guest is the first process of the virtual machine of TestWatchdogVM. It loads the modules of a watchdog, uses the
// watchdog as the agent does, and says on the console what it did and when. It never ends: the watchdog must end it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"hacluster/fence"
)

func main() {
	if err := run(); err != nil {
		say("FAULT %v", err)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	select {}
}

// say writes one line that the test reads; the time is the guest's own.
func say(format string, args ...any) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	fmt.Printf("GUEST %.3f %s\n", float64(ts.Nano())/1e9, fmt.Sprintf(format, args...))
}

func run() error {
	for dir, fs := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fs, dir, fs, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mounting %s: %w", dir, err)
		}
	}
	say("booted")
	modules, err := filepath.Glob("/modules/*.ko*")
	if err != nil {
		return err
	}
	sort.Strings(modules) // the test numbers them
	for _, file := range modules {
		if err := load(file); err != nil {
			return fmt.Errorf("loading %s: %w", file, err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat("/dev/watchdog"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no /dev/watchdog appeared")
		}
	}
	const timeout = 2 * time.Second
	w, err := fence.OpenWatchdog("/dev/watchdog", timeout)
	if err != nil {
		return err
	}
	say("armed %+v", w.Info())
	if err := feed(w, 3*timeout); err != nil {
		return err
	}
	say("fed for %v", 3*timeout)
	if err := w.Disarm(); err != nil {
		return err
	}
	time.Sleep(3 * timeout)
	say("disarmed and alive for %v", 3*timeout)
	if w, err = fence.OpenWatchdog("/dev/watchdog", timeout); err != nil {
		return err
	}
	if err := feed(w, timeout); err != nil {
		return err
	}
	if err := w.Close(); err != nil { // as a crash does
		return err
	}
	say("closed without disarming")
	for range 200 {
		time.Sleep(50 * time.Millisecond)
		say("alive")
	}
	return fmt.Errorf("still alive 10s after the last feed")
}

func feed(w *fence.Watchdog, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err := w.Feed(); err != nil {
			return err
		}
	}
	return w.Feed()
}

func load(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}
