package fence

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options of watchdog_info, include/uapi/linux/watchdog.h.
const (
	wdiofPretimeout = 0x0200
	wdiofSetTimeout = 0x0080
	wdiofMagicClose = 0x0100
)

// watchdogInfo is struct watchdog_info.
type watchdogInfo struct {
	options  uint32
	firmware uint32
	identity [32]byte
}

// watchdogCalls are the system calls of a watchdog: the seam below which a test has no device.
type watchdogCalls struct {
	open  func(path string) (fd int, err error)
	ioctl func(fd int, request uint, arg unsafe.Pointer) error
	write func(fd int, p []byte) error
	close func(fd int) error
	// noWayOut reads what no ioctl tells.
	noWayOut func(fd int) bool
}

var kernel = watchdogCalls{
	open: func(path string) (int, error) {
		return retryEINTR(func() (int, error) { return unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	},
	ioctl: func(fd int, request uint, arg unsafe.Pointer) error {
		_, err := retryEINTR(func() (int, error) {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
			if errno != 0 {
				return 0, errno
			}
			return 0, nil
		})
		return err
	},
	write: func(fd int, p []byte) error {
		_, err := retryEINTR(func() (int, error) { return unix.Write(fd, p) })
		return err
	},
	close:    unix.Close,
	noWayOut: sysfsNoWayOut,
}

func retryEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Watchdog is an open, armed watchdog device. Feed and Disarm may be called concurrently.
type Watchdog struct {
	sys  watchdogCalls
	path string
	info WatchdogInfo

	mu sync.Mutex
	fd int // -1: closed
}

// OpenWatchdog arms a watchdog device with the timeout, rounded up to whole seconds. From now on the node resets when it
// is not fed for Info().Timeout, also after the death of this process. When the device cannot be set up it is disarmed
// again. Nobody else can open it meanwhile: an error that is EBUSY means that systemd or another daemon has it.
func OpenWatchdog(path string, timeout time.Duration) (*Watchdog, error) {
	return openWatchdog(kernel, path, timeout)
}

func openWatchdog(sys watchdogCalls, path string, timeout time.Duration) (*Watchdog, error) {
	if err := CheckWatchdog(timeout); err != nil {
		return nil, err
	}
	fd, err := sys.open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the watchdog %s: %w", path, err)
	}
	w := &Watchdog{sys: sys, path: path, fd: fd}
	if err := w.setUp(timeout); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the watchdog %s: %w", path, err), w.Disarm())
	}
	return w, nil
}

// setUp asks what the driver can, sets the timeout and reads back what is in force.
func (w *Watchdog) setUp(timeout time.Duration) error {
	var info watchdogInfo
	if err := w.sys.ioctl(w.fd, unix.WDIOC_GETSUPPORT, unsafe.Pointer(&info)); err != nil {
		return fmt.Errorf("asking what it supports (WDIOC_GETSUPPORT): %w", err)
	}
	identity, _, _ := bytes.Cut(info.identity[:], []byte{0})
	w.info = WatchdogInfo{Identity: string(bytes.ToValidUTF8(identity, []byte("?"))), MagicClose: info.options&wdiofMagicClose != 0,
		NoWayOut: w.sys.noWayOut(w.fd)}
	seconds := int32((timeout + time.Second - 1) / time.Second)
	if info.options&wdiofSetTimeout != 0 {
		if err := w.sys.ioctl(w.fd, unix.WDIOC_SETTIMEOUT, unsafe.Pointer(&seconds)); err != nil {
			return fmt.Errorf("setting the timeout to %d s (WDIOC_SETTIMEOUT): %w", seconds, err)
		}
	}
	var actual int32
	switch err := w.sys.ioctl(w.fd, unix.WDIOC_GETTIMEOUT, unsafe.Pointer(&actual)); {
	case err != nil:
		return fmt.Errorf("reading the timeout back (WDIOC_GETTIMEOUT): %w", err)
	case actual <= 0:
		return fmt.Errorf("the timeout in force is %d s", actual)
	}
	w.info.Timeout = time.Duration(actual) * time.Second
	if info.options&wdiofPretimeout != 0 {
		var pre int32
		if err := w.sys.ioctl(w.fd, unix.WDIOC_GETPRETIMEOUT, unsafe.Pointer(&pre)); err == nil && pre > 0 {
			w.info.Pretimeout = time.Duration(pre) * time.Second
		}
	}
	return w.Feed()
}

// Info says what is in force. A takeover that relies on the watchdog must wait for this Timeout.
func (w *Watchdog) Info() WatchdogInfo { return w.info }

// SetPretimeout asks for a warning (an NMI, by default a panic with a crash dump) this long before the reset, in whole
// seconds, rounded down, less than the timeout; zero turns it off. errors.ErrUnsupported when the driver has none.
func (w *Watchdog) SetPretimeout(d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d < 0 || d >= w.info.Timeout {
		return fmt.Errorf("pretimeout %v is not below the timeout %v", d, w.info.Timeout)
	}
	seconds := int32(d / time.Second)
	err := w.sys.ioctl(w.fd, unix.WDIOC_SETPRETIMEOUT, unsafe.Pointer(&seconds))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("watchdog pretimeout: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("setting the watchdog's pretimeout (WDIOC_SETPRETIMEOUT): %w", err)
	}
	w.info.Pretimeout = time.Duration(seconds) * time.Second
	return nil
}

// Feed puts the reset off by one timeout. After Disarm or Close it is an error that is os.ErrClosed.
func (w *Watchdog) Feed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return fmt.Errorf("feeding the watchdog: %w", os.ErrClosed)
	}
	var dummy int32
	err := w.sys.ioctl(w.fd, unix.WDIOC_KEEPALIVE, unsafe.Pointer(&dummy))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		err = w.sys.write(w.fd, []byte{0}) // drivers without the ioctl count any write that is not 'V'
	}
	if err != nil {
		return fmt.Errorf("feeding the watchdog: %w", err)
	}
	return nil
}

// Disarm closes the device in good order: nothing is held any more, and the node may go on without being fed. The error
// is ErrWatchdogStaysArmed when the kernel will reset the node nevertheless.
func (w *Watchdog) Disarm() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return nil
	}
	var errs []error
	if err := w.sys.write(w.fd, []byte{'V'}); err != nil {
		errs = append(errs, fmt.Errorf("disarming the watchdog: %w", err))
	}
	if w.info.NoWayOut {
		errs = append(errs, ErrWatchdogStaysArmed)
	}
	return errors.Join(append(errs, w.shut())...)
}

// Close leaves the device armed: the node resets at the timeout, unless the next process opens and feeds it first. This
// is what a crash does, and what an agent does that restarts while it holds something.
func (w *Watchdog) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return nil
	}
	return w.shut()
}

func (w *Watchdog) shut() error {
	fd := w.fd
	w.fd = -1
	if err := w.sys.close(fd); err != nil {
		return fmt.Errorf("closing the watchdog: %w", err)
	}
	return nil
}

// sysfsNoWayOut reads whether the kernel will refuse to disarm the device; false when it does not say.
func sysfsNoWayOut(fd int) bool {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false
	}
	// The legacy node /dev/watchdog is a misc device of watchdog0.
	dir := fmt.Sprintf("/sys/dev/char/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if unix.Major(st.Rdev) == 10 && unix.Minor(st.Rdev) == 130 {
		dir = "/sys/class/watchdog/watchdog0"
	}
	text, err := os.ReadFile(filepath.Join(dir, "nowayout"))
	return err == nil && strings.TrimSpace(string(text)) == "1"
}
