package node

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// maxFrame bounds one message between agents, in bytes.
const maxFrame = 4 << 20

// message is one frame on a lease connection: a question or, with the same ID, its answer. One of the bodies is set.
type message struct {
	ID      uint64       `json:"id"`
	Renew   *renewal     `json:"renew,omitempty"`    // node to leader
	Grant   *lease.Grant `json:"grant,omitempty"`    // its answer
	Known   uint64       `json:"known,omitempty"`    // with a grant: the leader has this version of the node's report
	Again   bool         `json:"again,omitempty"`    // with a grant: this agent is to end, to be started again for a new timing
	Conns   *connList    `json:"conns,omitempty"`    // owner of an address to who may be the next; answered by nothing but the answer
	Cables  *cables      `json:"cables,omitempty"`   // any to any: which networks the sender has lost, or has again; answered by nothing but the answer
	AskTerm bool         `json:"ask_term,omitempty"` // leader to voter
	Term    uint64       `json:"term,omitempty"`     // its answer: the voter's Raft term at the time of answering
	Pulse   *lease.Pulse `json:"pulse,omitempty"`    // node to voter
	Heard   bool         `json:"heard,omitempty"`    // its answer: it counts
	By      string       `json:"by,omitempty"`       // with it: the voter's process
	Attest  *attest      `json:"attest,omitempty"`   // leader to voter
	Lapsed  bool         `json:"lapsed,omitempty"`   // its answer: the promise has ended, and the node is answered no more for a while
	Refused string       `json:"refused,omitempty"`  // why there is no other answer
}

// renewal asks for a lease and says how the node is.
type renewal struct {
	Seq    uint64           `json:"seq"`
	Boot   string           `json:"boot"` // random, one per process: orders reports of one process by Seq
	Report placement.Report `json:"report,omitzero"`
	Ending bool             `json:"ending,omitempty"` // this process ends because it was asked to: its silence is no sign of a death
	Term   uint64           `json:"term,omitempty"`   // the sender's Raft term, read after the instant that its lease counts from; 0: not told
	Echo   uint64           `json:"echo,omitempty"`   // the newest grant that the sender has of this leader in Term, had before Term was read; 0: none
	Quiet  bool             `json:"quiet,omitempty"`  // the sender takes the grant for a heartbeat of Raft

	// At rest a report says the same ten times a second, and it is long where there are many groups. A leader that said that it
	// has this version is told no more than that nothing has changed.
	Version uint64 `json:"version,omitempty"` // of the report, by one process
	Same    bool   `json:"same,omitempty"`    // Report is left out: it is the one of that version, but for Applied
	Applied uint64 `json:"applied,omitempty"` // with Same
}

// attest asks a voter whether the last promise of a node has ended.
type attest struct {
	Node string        `json:"node"`
	Term uint64        `json:"term"`   // of the leader that asks
	Bar  time.Duration `json:"bar_ns"` // for so long the node is not to be answered
}

func writeFrame(w io.Writer, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding message: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("message of %d bytes exceeds %d", len(body), maxFrame)
	}
	frame := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

func readFrame(r *bufio.Reader) (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return message{}, fmt.Errorf("frame of %d bytes: peer speaks another protocol", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return message{}, fmt.Errorf("decoding frame: %w", err)
	}
	return m, nil
}
