package vip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// batchMost is how many addresses one transaction is about at most. Each takes it up to 540 bytes, and the kernel takes no message that is
// longer than the send buffer of the socket (EMSGSIZE), 208 KiB where nobody has changed net.core.wmem_default.
const batchMost = 200

// batch is one transaction about elements of sets: all of it happens or nothing. A renewal every 100 ms is most of what an owner
// at rest does, so it does not go through the library, which asks for an answer to each message and takes two system calls to
// read one; this takes three for all.
type batch struct {
	b    []byte
	last int // where the newest message about elements begins
}

func newBatch() *batch {
	c := &batch{}
	c.frame(unix.NFNL_MSG_BATCH_BEGIN)
	return c
}

// message begins a netlink message with struct nfgenmsg and returns where it begins.
func (c *batch) message(kind, flags uint16, family byte, resource uint16) int {
	at := len(c.b)
	c.b = append(c.b, make([]byte, unix.SizeofNlMsghdr)...)
	binary.NativeEndian.PutUint16(c.b[at+4:], kind)
	binary.NativeEndian.PutUint16(c.b[at+6:], flags|unix.NLM_F_REQUEST)
	c.b = append(c.b, family, unix.NFNETLINK_V0)
	c.b = binary.BigEndian.AppendUint16(c.b, resource)
	return at
}

// frame is the begin or the end of the transaction.
func (c *batch) frame(kind uint16) {
	at := c.message(kind, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	binary.NativeEndian.PutUint32(c.b[at:], uint32(len(c.b)-at))
}

// open begins an attribute, which shut ends.
func (c *batch) open(kind uint16) int {
	at := len(c.b)
	c.b = append(c.b, 0, 0, 0, 0)
	binary.NativeEndian.PutUint16(c.b[at+2:], kind)
	return at
}

func (c *batch) shut(at int) {
	binary.NativeEndian.PutUint16(c.b[at:], uint16(len(c.b)-at))
	for len(c.b)%unix.NLA_ALIGNTO != 0 {
		c.b = append(c.b, 0)
	}
}

func (c *batch) attr(kind uint16, value ...byte) {
	at := c.open(kind)
	c.b = append(c.b, value...)
	c.shut(at)
}

func (c *batch) elements(kind, flags uint16, s *nftables.Set, elems []nftables.SetElement) error {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	c.last = c.message(subsystem|kind, flags, byte(s.Table.Family), 0)
	c.attr(unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(s.Table.Name), 0)...)
	c.attr(unix.NFTA_SET_ELEM_LIST_SET, append([]byte(s.Name), 0)...)
	list := c.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS | unix.NLA_F_NESTED)
	for _, e := range elems {
		item := c.open(unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED)
		key := c.open(unix.NFTA_SET_ELEM_KEY | unix.NLA_F_NESTED)
		c.attr(unix.NFTA_DATA_VALUE, e.Key...)
		c.shut(key)
		if ms := e.Timeout.Milliseconds(); s.HasTimeout && ms > 0 {
			c.attr(unix.NFTA_SET_ELEM_TIMEOUT, binary.BigEndian.AppendUint64(nil, uint64(ms))...)
		}
		c.shut(item)
	}
	if len(c.b)-list > 1<<16-1 {
		return fmt.Errorf("set %s: %d elements do not fit into one message", s.Name, len(elems))
	}
	c.shut(list)
	binary.NativeEndian.PutUint32(c.b[c.last:], uint32(len(c.b)-c.last))
	return nil
}

// SetAddElements adds what is not there yet.
func (c *batch) SetAddElements(s *nftables.Set, elems []nftables.SetElement) error {
	return c.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, s, elems)
}

// SetDeleteElements fails the whole transaction with ENOENT when one of them is not there.
func (c *batch) SetDeleteElements(s *nftables.Set, elems []nftables.SetElement) error {
	return c.elements(unix.NFT_MSG_DELSETELEM, 0, s, elems)
}

// commit sends the transaction and reads what came of it. The kernel works within the system call and answers what failed, and, because
// the last message about elements asks for it, that it is through.
func (m *Manager) commit(c *batch) error {
	c.frame(unix.NFNL_MSG_BATCH_END)
	s, err := m.gateSocket()
	if err != nil {
		return err
	}
	if err = s.transact(c); err != nil {
		err = errors.Join(err, m.gate.close()) // answers may be left in the socket
	}
	return err
}

// gateSocket is the socket for transactions, which is kept.
func (m *Manager) gateSocket() (*kernelSocket, error) {
	if m.gate.raw != nil {
		return m.gate.raw, nil
	}
	s, err := m.kernelSocket(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	m.gate.raw = s
	return s, nil
}

// transact sends a whole batch. Its messages have number 0 but the last about elements.
func (s *kernelSocket) transact(c *batch) error {
	s.seq++
	flags := c.b[c.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(c.b[c.last+8:], s.seq)
	if err := s.change(c.b); err != nil {
		return err
	}
	through := false
	var errs []error
	for {
		b, err := s.answer()
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err == nil {
			err = eachMessage(b, func(h header, data []byte) error {
				if h.kind == unix.NLMSG_ERROR {
					err := ackError(h.flags, data)
					through = through || err == nil && h.seq == s.seq
					errs = append(errs, err)
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	if err := errors.Join(errs...); err != nil || through {
		return err
	}
	return errors.New("the kernel gave no answer to a transaction")
}
