package fence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fakeWatchdog stands below the system calls and keeps the book of them.
type fakeWatchdog struct {
	t        *testing.T
	options  uint32
	timeout  int32 // in force
	round    int32 // the driver rounds timeouts up to a multiple
	fail     map[uint]error
	noWayOut bool
	calls    []string
}

func (f *fakeWatchdog) system() watchdogCalls {
	return watchdogCalls{
		open:     func(path string) (int, error) { f.note("open %s", path); return 77, f.fail[0] },
		ioctl:    f.ioctl,
		write:    func(fd int, p []byte) error { f.note("write %d %q", fd, p); return nil },
		close:    func(fd int) error { f.note("close %d", fd); return nil },
		noWayOut: func(int) bool { return f.noWayOut },
	}
}

func (f *fakeWatchdog) note(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fakeWatchdog) ioctl(fd int, request uint, arg unsafe.Pointer) error {
	n := (*int32)(arg)
	switch request { // include/uapi/linux/watchdog.h, asm-generic encoding
	case 0x80285700:
		f.note("ioctl %d GETSUPPORT", fd)
		info := (*watchdogInfo)(arg)
		info.options = f.options
		copy(info.identity[:], "fake")
	case 0xc0045706:
		f.note("ioctl %d SETTIMEOUT %d", fd, *n)
		f.timeout = (*n + f.round - 1) / f.round * f.round
		*n = f.timeout
	case 0x80045707:
		f.note("ioctl %d GETTIMEOUT", fd)
		*n = f.timeout
	case 0x80045705:
		f.note("ioctl %d KEEPALIVE", fd)
	case 0xc0045708:
		f.note("ioctl %d SETPRETIMEOUT %d", fd, *n)
	case 0x80045709:
		f.note("ioctl %d GETPRETIMEOUT", fd)
		*n = 3
	default:
		f.t.Errorf("ioctl %#x is no watchdog's", request)
	}
	return f.fail[request]
}

func newFakeWatchdog(t *testing.T) *fakeWatchdog {
	if !slices.Contains([]string{"amd64", "arm64", "386", "arm", "riscv64"}, runtime.GOARCH) {
		t.Skip("needs an architecture with the generic ioctl encoding")
	}
	return &fakeWatchdog{t: t, options: wdiofSetTimeout | wdiofMagicClose, timeout: 60, round: 1, fail: map[uint]error{}}
}

func (f *fakeWatchdog) want(calls ...string) {
	f.t.Helper()
	if !slices.Equal(f.calls, calls) {
		f.t.Errorf("calls %q\nwant  %q", f.calls, calls)
	}
	f.calls = nil
}

func TestWatchdogSpeaksToTheKernel(t *testing.T) {
	if size := unsafe.Sizeof(watchdogInfo{}); size != 40 {
		t.Fatalf("struct watchdog_info has 40 bytes, not %d", size)
	}
	f := newFakeWatchdog(t)
	f.options |= wdiofPretimeout
	f.round = 4
	w, err := openWatchdog(f.system(), "/dev/wd", 9500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	f.want("open /dev/wd", "ioctl 77 GETSUPPORT", "ioctl 77 SETTIMEOUT 10", "ioctl 77 GETTIMEOUT", "ioctl 77 GETPRETIMEOUT", "ioctl 77 KEEPALIVE")
	if got, want := w.Info(), (WatchdogInfo{Identity: "fake", Timeout: 12 * time.Second, Pretimeout: 3 * time.Second, MagicClose: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := errors.Join(w.Feed(), w.SetPretimeout(5*time.Second)); err != nil || w.Info().Pretimeout != 5*time.Second {
		t.Error(err, w.Info())
	}
	f.want("ioctl 77 KEEPALIVE", "ioctl 77 SETPRETIMEOUT 5")
	if err := w.SetPretimeout(12 * time.Second); err == nil {
		t.Error("a pretimeout as long as the timeout was accepted")
	}
	if err := errors.Join(w.Disarm(), w.Disarm(), w.Close()); err != nil {
		t.Error(err)
	}
	f.want(`write 77 "V"`, "close 77")
	if err := w.Feed(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("feeding after the end: %v", err)
	}
}

func TestCloseLeavesTheWatchdogArmed(t *testing.T) {
	f := newFakeWatchdog(t)
	w, err := openWatchdog(f.system(), "/dev/wd", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	f.calls = nil
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	f.want("close 77") // no 'V'
}

func TestWatchdogThatCannotBeSetUpIsDisarmed(t *testing.T) {
	for _, request := range []uint{unix.WDIOC_GETSUPPORT, unix.WDIOC_SETTIMEOUT, unix.WDIOC_GETTIMEOUT, unix.WDIOC_KEEPALIVE} {
		f := newFakeWatchdog(t)
		f.fail[request] = unix.EINVAL
		_, err := openWatchdog(f.system(), "/dev/wd", time.Second)
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("%#x: %v", request, err)
		}
		if n := len(f.calls); n < 2 || f.calls[n-2] != `write 77 "V"` || f.calls[n-1] != "close 77" {
			t.Errorf("%#x: %q", request, f.calls)
		}
	}
	f := newFakeWatchdog(t)
	f.fail[0] = unix.EBUSY
	if _, err := openWatchdog(f.system(), "/dev/wd", time.Second); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	f.want("open /dev/wd")
}

func TestWatchdogOfFewWords(t *testing.T) {
	f := newFakeWatchdog(t)
	f.options = 0
	f.fail[unix.WDIOC_KEEPALIVE], f.fail[unix.WDIOC_SETPRETIMEOUT] = unix.ENOTTY, unix.EOPNOTSUPP
	f.noWayOut = true
	w, err := openWatchdog(f.system(), "/dev/wd", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	f.want("open /dev/wd", "ioctl 77 GETSUPPORT", "ioctl 77 GETTIMEOUT", "ioctl 77 KEEPALIVE", `write 77 "\x00"`)
	if w.Info().Timeout != time.Minute || w.Info().MagicClose {
		t.Errorf("%+v", w.Info())
	}
	if err := w.SetPretimeout(time.Second); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if err := w.Disarm(); !errors.Is(err, ErrWatchdogStaysArmed) {
		t.Errorf("nowayout: %v", err)
	}
}

func TestWatchdogTimeoutsThatMakeNoSense(t *testing.T) {
	for _, d := range []time.Duration{-1, 0, 999 * time.Millisecond, time.Hour} {
		f := newFakeWatchdog(t)
		if _, err := openWatchdog(f.system(), "/dev/wd", d); err == nil {
			t.Errorf("%v was accepted", d)
		}
		f.want()
	}
}

func TestFileIsNoWatchdog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "wd")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWatchdog(file, time.Second); !errors.Is(err, unix.ENOTTY) || !strings.Contains(err.Error(), "WDIOC_GETSUPPORT") {
		t.Error(err)
	}
	if _, err := OpenWatchdog(file+"x", time.Second); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

type countFeeds struct{ n int }

func (c *countFeeds) Feed() error { c.n++; return nil }

func TestKeepFeedsOnlyWhileTheLoopMakesProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var pulse Pulse
		c := &countFeeds{}
		done := make(chan struct{})
		go func() {
			Keep(ctx, c, KeepOptions{Refuse: pulse.Silent(3 * time.Second), Every: time.Second, Now: time.Now})
			close(done)
		}()
		after := func(d time.Duration, want int, why string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if c.n != want {
				t.Errorf("%s: fed %d times, want %d", why, c.n, want)
			}
			c.n = 0
		}
		after(5*time.Second, 0, "a loop that never began")
		pulse.Beat(time.Now())
		after(3*time.Second, 3, "a loop that beat")
		after(time.Minute, 0, "a loop that stopped")
		pulse.Beat(time.Now())
		after(2*time.Second, 2, "a loop that came back")
		cancel()
		<-done
	})
}

func TestWatchdogModes(t *testing.T) {
	for name, c := range map[string]struct {
		mode    WatchdogMode
		set     func(f *fakeWatchdog)
		open    bool
		why     string // in the reason or the error
		refused bool
	}{
		"off asks nothing":                      {WatchdogOff, func(f *fakeWatchdog) { f.fail[0] = unix.EIO }, false, "", false},
		"auto uses what is there":               {WatchdogAuto, func(*fakeWatchdog) {}, true, "", false},
		"auto goes on without":                  {WatchdogAuto, func(f *fakeWatchdog) { f.fail[0] = unix.ENOENT }, false, "no such file", false},
		"required does not":                     {WatchdogRequired, func(f *fakeWatchdog) { f.fail[0] = unix.ENOENT }, false, "no such file", true},
		"required takes one that stays armed":   {WatchdogRequired, func(*fakeWatchdog) {}, true, "", false},
		"required refuses one that does not":    {WatchdogRequired, func(f *fakeWatchdog) { f.options = wdiofSetTimeout }, false, "no magic close", true},
		"auto uses it all the same":             {WatchdogAuto, func(f *fakeWatchdog) { f.options = wdiofSetTimeout }, true, "", false},
		"nowayout stays armed, whatever it can": {WatchdogRequired, func(f *fakeWatchdog) { f.options, f.noWayOut = wdiofSetTimeout, true }, true, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeWatchdog(t)
			c.set(f)
			old := kernel
			kernel = f.system()
			defer func() { kernel = old }()
			w, why, err := OpenWatchdogFor(c.mode, "/dev/wd", 10*time.Second)
			text := why
			if err != nil {
				text = err.Error()
			}
			if (w != nil) != c.open || (err != nil) != c.refused || !strings.Contains(text, c.why) {
				t.Errorf("opened %v, %q, %v", w != nil, why, err)
			}
			if c.refused && len(f.calls) > 1 && f.calls[len(f.calls)-2] != `write 77 "V"` {
				t.Errorf("refused, and left armed: %q", f.calls)
			}
		})
	}
}
