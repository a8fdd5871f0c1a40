package membership

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hacluster/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testKey = bytes.Repeat([]byte{7}, keySize)

func open(t *testing.T, name string, change func(*Config)) *Membership {
	t.Helper()
	cfg := Config{Name: name, Role: placement.RoleMember, Version: "1.2.3", Bind: "127.0.0.1", Key: testKey,
		Advertise: []string{"127.0.0.1"}, Addresses: []string{name + ":7400"}}
	if change != nil {
		change(&cfg)
	}
	m, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(false) })
	return m
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func find(m *Membership, name string) (Member, bool) {
	for _, x := range m.Members() {
		if x.Name == name {
			return x, true
		}
	}
	return Member{}, false
}

func TestNodesFindEachOther(t *testing.T) {
	a := open(t, "a", nil)
	var mu sync.Mutex
	changes := 0
	b := open(t, "b", func(c *Config) {
		c.Role = placement.RoleWitness
		c.Addresses = []string{"10.0.0.2:7400", "10.1.0.2:7400"}
		c.Join = func() []string { return []string{a.Addr()} }
		c.Changed = func() { mu.Lock(); changes++; mu.Unlock() }
	})
	until(t, "a sees b", func() bool { x, ok := find(a, "b"); return ok && x.Alive })
	until(t, "b sees a", func() bool { x, ok := find(b, "a"); return ok && x.Alive })
	got, _ := find(a, "b")
	want := Member{Name: "b", Role: placement.RoleWitness, Version: "1.2.3", Addresses: []string{"10.0.0.2:7400", "10.1.0.2:7400"}, Alive: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	until(t, "b is told", func() bool { mu.Lock(); defer mu.Unlock(); return changes > 0 })

	if err := b.Close(true); err != nil {
		t.Error(err)
	}
	until(t, "a knows that b has gone", func() bool { x, ok := find(a, "b"); return ok && !x.Alive })
}

func TestPeerThatComesLaterIsFound(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	ln.Close()
	asked := make(chan struct{}, 100)
	a := open(t, "a", func(c *Config) {
		c.Join = func() []string { asked <- struct{}{}; return []string{addr.String()} }
	})
	<-asked
	open(t, "b", func(c *Config) { c.Port = addr.Port })
	until(t, "a sees b", func() bool { x, ok := find(a, "b"); return ok && x.Alive })
}

func TestWrongKeyGetsNothing(t *testing.T) {
	a := open(t, "a", nil)
	asked := make(chan struct{}, 100)
	stranger := open(t, "x", func(c *Config) {
		c.Key = bytes.Repeat([]byte{8}, keySize)
		c.Join = func() []string { asked <- struct{}{}; return []string{a.Addr()} }
	})
	<-asked
	<-asked // the first attempt is over
	if n, err := stranger.list.Join([]string{a.Addr()}); err == nil || n != 0 {
		t.Errorf("joined %d, %v", n, err)
	}
	if got := a.Members(); len(got) != 1 {
		t.Errorf("a took in %+v", got)
	}
	if got := stranger.Members(); len(got) != 1 {
		t.Errorf("the stranger learned %+v", got)
	}
}

func TestGarbageChangesNothing(t *testing.T) {
	var mu sync.Mutex
	var logged bytes.Buffer
	a := open(t, "a", func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(lockedWriter{&mu, &logged}, nil))
	})
	for range 50 {
		c, err := net.Dial("udp", a.Addr())
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("garbage " + strings.Repeat("\xff", 900)))
		c.Close()
		c, err = net.Dial("tcp", a.Addr())
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		c.Close()
	}
	b := open(t, "b", func(c *Config) { c.Join = func() []string { return []string{a.Addr()} } })
	until(t, "a and b meet all the same", func() bool { x, ok := find(b, "a"); return ok && x.Alive })
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(logged.String(), "\n"); n > 12 {
		t.Errorf("garbage made %d log lines:\n%s", n, logged.String())
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func TestOpenRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		text   string
	}{
		"a short key":                            {func(c *Config) { c.Key = c.Key[:16] }, "key file"},
		"no address":                             {func(c *Config) { c.Advertise = nil }, "no address"},
		"a role without name":                    {func(c *Config) { c.Role = "boss" }, "boss"},
		"an address that is not of this machine": {func(c *Config) { c.Bind = "198.18.255.1" }, "gossip port"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Name: "a", Role: placement.RoleMember, Bind: "127.0.0.1", Key: testKey, Advertise: []string{"127.0.0.1"}}
			tc.change(&cfg)
			m, err := Open(cfg)
			if err == nil {
				m.Close(false)
			}
			if err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %q", err, tc.text)
			}
		})
	}
}

func TestMetadataIsCutToFit(t *testing.T) {
	m := metadata{Role: placement.RoleMember, Version: "1"}
	for range 100 {
		m.Addresses = append(m.Addresses, "node.example.org:7400")
	}
	b, err := encodeMeta(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeMeta(b)
	if err != nil || len(b) > 512 || len(got.Addresses) == 0 || got.Version != "1" {
		t.Errorf("%d bytes, %+v, %v", len(b), got, err)
	}
	if _, err := encodeMeta(metadata{Role: placement.RoleMember, Version: strings.Repeat("v", 600)}); err == nil {
		t.Error("a version of 600 characters was taken")
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add([]byte(`{"r":"member","v":"1.0","a":["10.0.0.1:7400"]}`))
	f.Add([]byte(`{"r":"witness","new":{"x":[1]}}`))
	f.Add([]byte(`{"r":"member","v":"\u001b[31m"}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if m.check() != nil {
			t.Errorf("%q gave %+v", b, m)
		}
		if _, err := json.Marshal(m); err != nil {
			t.Error(err)
		}
	})
}
