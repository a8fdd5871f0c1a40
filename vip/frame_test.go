package vip

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

var (
	testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	testV4  = netip.MustParseAddr("198.18.0.100")
	testV6  = netip.MustParseAddr("fd00:18::100")
)

func TestGratuitousARPOnTheWire(t *testing.T) {
	for i, want := range []string{
		"ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c6120064 000000000000 c6120064",
		"ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c6120064 020000000001 c6120064",
	} {
		if got := hex.EncodeToString(gratuitousARP(testV4, testMAC)[i]); got != strings.ReplaceAll(want, " ", "") {
			t.Errorf("frame %d\ngot  %s\nwant %s", i, got, want)
		}
	}
	p, ok := parseARP(arpProbe(testV4, testMAC))
	if !ok || p.Op != arpRequest || !p.SenderIP.IsUnspecified() || p.TargetIP != testV4 {
		t.Errorf("a probe reads as %+v, %v: it must not claim the address (RFC 5227 2.1.1)", p, ok)
	}
}

func TestNeighbourAdvertisementOnTheWire(t *testing.T) {
	f := unsolicitedNA(testV6, testMAC)
	want := "333300000001 020000000001 86dd 60000000 0020 3a ff" +
		"fd000018000000000000000000000100 ff020000000000000000000000000001 88 00 "
	want = strings.ReplaceAll(want, " ", "")
	if got := hex.EncodeToString(f); !strings.HasPrefix(got, want) ||
		!strings.HasSuffix(got, "20000000"+"fd000018000000000000000000000100"+"0201"+"020000000001") {
		t.Errorf("got %s, want it to begin with %s", got, want)
	}
	a, ok := parseNA(f)
	if !ok || a.Target != testV6 || a.MAC.String() != testMAC.String() {
		t.Errorf("parseNA = %+v, %v", a, ok)
	}
	s := dadSolicitation(testV6, testMAC)
	if got := hex.EncodeToString(s[:6]); got != "3333ff000100" {
		t.Errorf("the solicitation goes to %s, want the solicited-node group 3333ff000100", got)
	}
	if _, ok := parseNA(s); ok {
		t.Error("a solicitation was read as an advertisement")
	}
}

func TestForgedAdvertisementsAreIgnored(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
	}{
		{"forwarded", func(b []byte) []byte { b[etherLen+7] = 254; return b }},
		{"wrong checksum", func(b []byte) []byte { b[etherLen+ipv6Len+2] ^= 1; return b }},
		{"cut short", func(b []byte) []byte { return b[:len(b)-1] }},
		{"option of length 0", func(b []byte) []byte {
			b[etherLen+ipv6Len+25] = 0
			b[etherLen+ipv6Len+24] += 1 // keeps the checksum right
			return b
		}},
		{"another protocol", func(b []byte) []byte { b[etherLen+6] = 17; return b }},
	} {
		if a, ok := parseNA(c.change(unsolicitedNA(testV6, testMAC))); ok {
			t.Errorf("%s: accepted as %+v", c.name, a)
		}
	}
}

func FuzzParseARP(f *testing.F) {
	for _, b := range append(gratuitousARP(testV4, testMAC), arpProbe(testV4, testMAC), nil, make([]byte, 42)) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseARP(b)
		if !ok {
			return
		}
		again, ok := parseARP(p.frame())
		if !ok || again.Op != p.Op || again.SenderIP != p.SenderIP || !bytes.Equal(again.SenderMAC, p.SenderMAC) ||
			again.TargetIP != p.TargetIP || !bytes.Equal(again.TargetMAC, p.TargetMAC) {
			t.Errorf("%+v became %+v", p, again)
		}
	})
}

func FuzzParseNA(f *testing.F) {
	for _, b := range [][]byte{unsolicitedNA(testV6, testMAC), dadSolicitation(testV6, testMAC), nil, make([]byte, 90)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parseNA(b); ok && (len(a.MAC) != 6 || !a.Target.IsValid() || a.Target.IsMulticast()) {
			t.Errorf("accepted %+v", a)
		}
	})
}

func FuzzParseAddr(f *testing.F) {
	f.Add(armBody(netip.PrefixFrom(testV4, 32), 2, "eth0:had", 5, true))
	f.Add(armBody(netip.PrefixFrom(testV6, 128), 2, "", 5, false))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parseAddr(b); ok && !a.prefix.IsValid() {
			t.Errorf("accepted %+v", a)
		}
	})
}

func FuzzParseLink(f *testing.F) {
	b := make([]byte, 16)
	b[4] = 2
	f.Add(appendAttr(appendAttr(b, iflaIfname, []byte("eth0\x00")), iflaAddress, testMAC))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, ok := parseLink(b); ok && (l.name == "" || l.index <= 0) {
			t.Errorf("accepted %+v", l)
		}
	})
}

func TestLifetimesAreRoundedDown(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want uint32
	}{{time.Second, 1}, {1999 * time.Millisecond, 1}, {2 * time.Second, 2}, {time.Duration(math.MaxInt64), math.MaxUint32 - 1}} {
		if got, err := wholeSeconds(c.d); got != c.want || err != nil {
			t.Errorf("wholeSeconds(%v) = %d, %v, want %d", c.d, got, err, c.want)
		}
	}
	for _, d := range []time.Duration{999 * time.Millisecond, 0, -time.Hour} {
		if got, err := wholeSeconds(d); !errors.Is(err, ErrLifetime) {
			t.Errorf("wholeSeconds(%v) = %d, %v, want ErrLifetime", d, got, err)
		}
	}
}

func TestOursIsDecidedByTheTagOnly(t *testing.T) {
	v4, v6 := netip.PrefixFrom(testV4, 32), netip.PrefixFrom(testV6, 128)
	for _, c := range []struct {
		name string
		a    kernelAddr
		want bool
	}{
		{"protocol tag", kernelAddr{prefix: v6, proto: protoHad}, true},
		{"label on an old kernel", kernelAddr{prefix: v4, label: "eth0:had"}, true},
		{"another label", kernelAddr{prefix: v4, label: "eth0:hadoop"}, false},
		{"no label, no protocol", kernelAddr{prefix: v4, label: "eth0"}, false},
		{"another protocol", kernelAddr{prefix: v6, proto: 3}, false},
	} {
		if got := c.a.ours(); got != c.want {
			t.Errorf("%s: ours = %v, want %v", c.name, got, c.want)
		}
	}
	if got := label("verylongname0"); got != "" {
		t.Errorf("label that does not fit is %q, want none", got)
	}
	if got := label("enp0s31f6ab"); got != "enp0s31f6ab:had" {
		t.Errorf("label that just fits is %q", got)
	}
}

func TestAddressesThatCannotFloatAreRefused(t *testing.T) {
	for address, text := range map[string]string{
		"198.18.0.0/24": "network or broadcast", "198.18.0.255/24": "network or broadcast", "224.0.0.5/24": "not a unicast",
		"::/64": "not a unicast", "::ffff:198.18.0.1/120": "write 198.18.0.1",
	} {
		if err := (Spec{Address: netip.MustParsePrefix(address)}).validate(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", address, err, text)
		}
	}
	if err := (Spec{}).validate(); err == nil {
		t.Error("the empty address was accepted")
	}
	for _, address := range []string{"198.18.0.1/24", "198.18.0.0/31", "198.18.0.0/32", "fd00::1/128"} {
		if err := (Spec{Address: netip.MustParsePrefix(address)}).validate(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestRemoversAreNamedWithTheSetting(t *testing.T) {
	root := fstest.MapFS{"run/systemd/netif/state": {}, "run/NetworkManager/devices/2": {}}
	text := Explain(RemovedBy(root, "eth0"))
	for _, want := range []string{"systemd-networkd runs here", "KeepConfiguration=static", "NetworkManager runs here", "unmanaged-devices=interface-name:eth0"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if text := Explain(RemovedBy(fstest.MapFS{}, "")); !strings.Contains(text, "no program known") {
		t.Errorf("on a host without such programs: %q", text)
	}
}
