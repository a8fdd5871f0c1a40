package vip

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// elementBytes is a message about elements as a kernel writes it.
func elementBytes(of map[netip.Addr]time.Duration) []byte {
	b := appendAttr(nil, unix.NFTA_SET_ELEM_LIST_TABLE, []byte("had\x00"))
	var list []byte
	for a, left := range of {
		e := appendAttr(nil, unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, appendAttr(nil, unix.NFTA_DATA_VALUE, a.AsSlice()))
		if left > 0 {
			e = appendAttr(e, unix.NFTA_SET_ELEM_TIMEOUT, binary.BigEndian.AppendUint64(nil, 60000))
			e = appendAttr(e, unix.NFTA_SET_ELEM_EXPIRATION, binary.BigEndian.AppendUint64(nil, uint64(left.Milliseconds())))
		}
		list = appendAttr(list, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, e)
	}
	return appendAttr(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list)
}

func TestElementsAreRead(t *testing.T) {
	want := map[netip.Addr]time.Duration{netip.MustParseAddr("198.18.0.100"): 0, netip.MustParseAddr("fd00:18::1"): 850 * time.Millisecond}
	got := map[netip.Addr]time.Duration{}
	if b := elementBytes(want); !readElements(b, got) || !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if !readElements(elementBytes(nil), got) || len(got) != 2 {
		t.Errorf("of an empty set: %v", got)
	}
	for _, bad := range [][]byte{
		{9, 0, 3, 0},
		appendAttr(nil, unix.NFTA_SET_ELEM_LIST_ELEMENTS, []byte{200, 0, 1, 0}),
		appendAttr(nil, unix.NFTA_SET_ELEM_LIST_ELEMENTS, appendAttr(nil, unix.NFTA_LIST_ELEM, []byte{200, 0, 1, 0})),
		appendAttr(nil, unix.NFTA_SET_ELEM_LIST_ELEMENTS, appendAttr(nil, unix.NFTA_LIST_ELEM, appendAttr(nil, unix.NFTA_SET_ELEM_KEY, []byte{200, 0, 1, 0}))),
		appendAttr(nil, unix.NFTA_SET_ELEM_LIST_ELEMENTS, appendAttr(nil, unix.NFTA_LIST_ELEM, appendAttr(nil, unix.NFTA_SET_ELEM_EXPIRATION, []byte{1}))),
	} {
		if readElements(bad, map[netip.Addr]time.Duration{}) {
			t.Errorf("%x is read", bad)
		}
	}
}

func FuzzReadElements(f *testing.F) {
	f.Add(elementBytes(map[netip.Addr]time.Duration{netip.MustParseAddr("198.18.0.100"): time.Second, netip.MustParseAddr("fd00::1"): 0}))
	f.Add(appendAttr(appendAttr(nil, unix.NFTA_RULE_TABLE, []byte("had\x00")), unix.NFTA_RULE_CHAIN, []byte("in\x00")))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, count := map[netip.Addr]time.Duration{}, map[string]int{}
		readElements(b, got)
		for a, left := range got {
			if !a.IsValid() || left < 0 || left > 24*time.Hour {
				t.Errorf("%v lasts %v", a, left)
			}
		}
		if readRule(b, "had", count); len(count) > 1 {
			t.Errorf("one rule of %d chains", len(count))
		}
	})
}

// What is read from the kernel is what is there, and what is missing is told from what is empty.
func TestTheGateIsReadFromTheKernel(t *testing.T) {
	t.Parallel()
	w := newGated(t)
	m := w.m1
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	left, err := m.list(inet4.managed)
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	for _, g := range gateRules {
		count, err := m.rules(g.chain.Table)
		if err != nil || count[g.chain.Name] != len(g.rules) || len(g.rules) == 0 {
			t.Errorf("chain %s: %v, %v", g.chain.Name, count, err)
		}
	}
	missing := *inet4.managed
	missing.Name = "nothing"
	if got, err := m.list(&missing); !errors.Is(err, ErrNoGate) {
		t.Errorf("a set that is missing: %v, %v", got, err)
	}
	run(t, "ip", "netns", "exec", w.n1, "nft", "flush", "chain", "inet", GateTable, "out")
	if err := m.whole(); !errors.Is(err, ErrNoGate) {
		t.Errorf("without the rules of one chain: %v", err)
	}
	run(t, "ip", "netns", "exec", w.n1, "nft", "delete", "table", "arp", GateTable)
	if err := m.whole(); !errors.Is(err, ErrNoGate) {
		t.Errorf("without a table: %v", err)
	}
	if count, err := m.rules(arpTable); err != nil || len(count) != 0 {
		t.Errorf("%v, %v", count, err)
	}
}
