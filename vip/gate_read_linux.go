package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// nfgenmsgLen is the length of struct nfgenmsg, which comes before the attributes.
const nfgenmsgLen = 4

// list is the elements of a set that are not over, and what they have left (0 in permanent sets). The gate is asked whenever an address
// is, several times within a change of owner, so what is read does not go through the library, which reads every expression of every
// rule: a millisecond of computing each time. ErrNoGate: there is no such set.
func (m *Manager) list(s *nftables.Set) (map[netip.Addr]time.Duration, error) {
	all := map[netip.Addr]time.Duration{}
	err := m.dump(unix.NFT_MSG_GETSETELEM, byte(s.Table.Family), func(b *batch) {
		b.attr(unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(s.Table.Name), 0)...)
		b.attr(unix.NFTA_SET_ELEM_LIST_SET, append([]byte(s.Name), 0)...)
	}, func() { clear(all) }, func(attrs []byte) bool { return readElements(attrs, all) })
	if errors.Is(err, unix.ENOENT) {
		return nil, errors.Join(ErrNoGate, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listing set %s: %w", s.Name, err)
	}
	return all, nil
}

// rules counts the rules of each chain of a table; none where there is no such table.
func (m *Manager) rules(t *nftables.Table) (map[string]int, error) {
	count := map[string]int{}
	err := m.dump(unix.NFT_MSG_GETRULE, byte(t.Family), func(b *batch) {
		b.attr(unix.NFTA_RULE_TABLE, append([]byte(t.Name), 0)...)
	}, func() { clear(count) }, func(attrs []byte) bool { return readRule(attrs, t.Name, count) })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("listing rules of table %s: %w", t.Name, err)
	}
	return count, nil
}

// dump asks for a list until it is told without an interruption; begin is called before each time, each with every answer.
func (m *Manager) dump(kind uint16, family byte, ask func(*batch), begin func(), each func(attrs []byte) bool) (err error) {
	for range gateTries {
		var s *kernelSocket
		if s, err = m.gateSocket(); err != nil {
			return err
		}
		b := &batch{}
		at := b.message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_DUMP, family, 0)
		ask(b)
		binary.NativeEndian.PutUint32(b.b[at:], uint32(len(b.b)-at))
		begin()
		err = s.list(b.b, func(data []byte) error {
			if len(data) < nfgenmsgLen || !each(data[nfgenmsgLen:]) {
				return fmt.Errorf("the kernel's answer of %d bytes cannot be read", len(data))
			}
			return nil
		})
		if errors.Is(err, errInterrupted) {
			continue
		}
		if err != nil {
			err = errors.Join(err, m.gate.close()) // answers may be left in the socket
		}
		return err
	}
	return err
}

// readElements reads the elements of one NFT_MSG_NEWSETELEM, without its struct nfgenmsg (include/uapi/linux/netfilter/nf_tables.h).
func readElements(attrs []byte, into map[netip.Addr]time.Duration) (ok bool) {
	ok = true
	whole := eachAttr(attrs, func(kind uint16, list []byte) {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return
		}
		fits := eachAttr(list, func(kind uint16, e []byte) {
			if kind == unix.NFTA_LIST_ELEM {
				ok = readElement(e, into) && ok
			}
		})
		ok = fits && ok
	})
	return whole && ok
}

func readElement(e []byte, into map[netip.Addr]time.Duration) (ok bool) {
	var a netip.Addr
	var left uint64
	ok = true
	whole := eachAttr(e, func(kind uint16, v []byte) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			ok = eachAttr(v, func(kind uint16, v []byte) {
				if kind == unix.NFTA_DATA_VALUE {
					a, _ = netip.AddrFromSlice(v) // of another type: no address
				}
			}) && ok
		case unix.NFTA_SET_ELEM_EXPIRATION:
			if ok = ok && len(v) == 8; ok {
				left = binary.BigEndian.Uint64(v)
			}
		}
	})
	if !whole || !ok {
		return false
	}
	if a.IsValid() {
		into[a] = time.Duration(min(left, uint64(24*time.Hour/time.Millisecond))) * time.Millisecond
	}
	return true
}

// readRule counts one NFT_MSG_NEWRULE, without its struct nfgenmsg, for its chain.
func readRule(attrs []byte, table string, count map[string]int) (ok bool) {
	var of, chain string
	ok = eachAttr(attrs, func(kind uint16, v []byte) {
		switch kind {
		case unix.NFTA_RULE_TABLE:
			of = unix.ByteSliceToString(v)
		case unix.NFTA_RULE_CHAIN:
			chain = unix.ByteSliceToString(v)
		}
	})
	if ok && of == table {
		count[chain]++
	}
	return ok
}
