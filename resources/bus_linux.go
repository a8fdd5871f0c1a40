package resources

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	sdbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	systemdName = "org.freedesktop.systemd1"
	systemdPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIf   = "org.freedesktop.systemd1.Manager"
	// privateSocket is systemd's own socket, for root, which works while the bus daemon does not.
	privateSocket = "unix:path=/run/systemd/private"
	dialBound     = 5 * time.Second
)

// session is one connection to systemd: go-systemd's pair for calls and job results.
type session struct {
	*sdbus.Conn
	lost []<-chan struct{} // closed when the pair's connections are
}

var (
	sharedMu sync.Mutex
	shared   *session // opened by the first call that needs it, replaced when it was lost
)

// connect gives the shared session. The error wraps ErrNoSystemd.
func connect(ctx context.Context) (*session, error) {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if shared != nil && shared.Connected() {
		return shared, nil
	}
	if shared != nil {
		shared.Close()
		shared = nil
	}
	s := &session{}
	conn, err := sdbus.NewConnection(func() (*dbus.Conn, error) {
		c, _, err := dial(ctx)
		if err == nil {
			s.lost = append(s.lost, c.Context().Done())
		}
		return c, err
	})
	if err != nil {
		return nil, err
	}
	s.Conn = conn
	shared = s
	return s, nil
}

// Close gives up the shared connection to systemd; the next call opens a new one. For the end of the program.
func Close() {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if shared != nil {
		shared.Close()
		shared = nil
	}
}

// dial opens one connection and makes sure that systemd answers on it. It tries the system bus, then, as root, systemd's
// own socket (direct is true then: no bus, signals come without a subscription). ctx bounds the opening only.
func dial(ctx context.Context) (c *dbus.Conn, direct bool, err error) {
	c, err = dialOne(ctx, func(o ...dbus.ConnOption) (*dbus.Conn, error) { return dbus.SystemBusPrivate(o...) }, true)
	if err == nil {
		return c, false, nil
	}
	if os.Geteuid() == 0 {
		if c, e := dialOne(ctx, func(o ...dbus.ConnOption) (*dbus.Conn, error) { return dbus.Dial(privateSocket, o...) }, false); e == nil {
			return c, true, nil
		}
	}
	return nil, false, fmt.Errorf("%w: %w", ErrNoSystemd, err)
}

func dialOne(ctx context.Context, open func(...dbus.ConnOption) (*dbus.Conn, error), hello bool) (*dbus.Conn, error) {
	// The connection must outlive ctx, so it gets a context of its own that ctx ends only while we are in here.
	life, end := context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	stop := context.AfterFunc(ctx, end)
	c, err := open(dbus.WithContext(life))
	if err != nil {
		end()
		return nil, err
	}
	err = c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err == nil && hello {
		err = c.Hello()
	}
	if err == nil {
		err = ping(ctx, c, hello)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		end()
		c.Close()
		return nil, err
	}
	return c, nil
}

// ping makes sure that systemd answers. On its own socket systemd leaves a message lie that arrives in one read with the end
// of the authentication, until the next one comes (seen with systemd 252), so there the question is put again.
func ping(ctx context.Context, c *dbus.Conn, bus bool) error {
	systemd := c.Object(systemdName, systemdPath)
	for {
		try, cancel := ctx, context.CancelFunc(func() {})
		if !bus {
			try, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
		}
		err := systemd.CallWithContext(try, "org.freedesktop.DBus.Peer.Ping", 0).Err
		cancel()
		if bus || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// dbusError gives the name of a D-Bus error, or "".
func dbusError(err error) string {
	var e dbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	return ""
}

func isNoSuchUnit(err error) bool { return dbusError(err) == systemdName+".NoSuchUnit" }

// isNothingToKill is systemd's answer to a kill when no process is there.
func isNothingToKill(err error) bool {
	n := dbusError(err)
	return n == systemdName+".NoSuchProcess" || isNoSuchUnit(err)
}
