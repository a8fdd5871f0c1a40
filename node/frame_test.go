package node

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hacluster/fence"
	"hacluster/lease"
	"hacluster/placement"
)

func TestAFrameIsReadAsItWasWritten(t *testing.T) {
	for name, m := range map[string]message{
		"a renewal": {ID: 7, Renew: &renewal{Seq: 3, Boot: "b", Report: placement.Report{Node: "a", Applied: 9,
			Groups: map[string]placement.GroupReport{"web": {Holding: true, Released: 4}}}}},
		"a grant":   {ID: 7, Grant: &lease.Grant{Seq: 3, Leader: "l", Index: 12, Held: map[string]uint64{"web": 5}, Duration: time.Second}},
		"a term":    {ID: 8, Term: 42},
		"a refusal": {ID: 9, Refused: "this node does not lead"},
		"nothing":   {},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			for range 2 { // two in one stream: each ends where it says
				if err := writeFrame(&b, m); err != nil {
					t.Fatal(err)
				}
			}
			r := bufio.NewReader(&b)
			for range 2 {
				got, err := readFrame(r)
				if d := cmp.Diff(m, got); d != "" || err != nil {
					t.Fatalf("%v %s", err, d)
				}
			}
			if _, err := readFrame(r); err == nil {
				t.Fatal("something was read behind the last frame")
			}
		})
	}
}

func TestAFrameThatIsTooLongIsNeitherWrittenNorRead(t *testing.T) {
	var b bytes.Buffer
	if err := writeFrame(&b, message{Refused: strings.Repeat("x", maxFrame)}); err == nil || b.Len() > 0 {
		t.Errorf("writing: %v, %d bytes written", err, b.Len())
	}
	for _, n := range []uint32{0, maxFrame + 1, 1<<32 - 1} {
		head := binary.BigEndian.AppendUint32(nil, n)
		if _, err := readFrame(bufio.NewReader(bytes.NewReader(append(head, '{', '}')))); err == nil || !strings.Contains(err.Error(), "another protocol") {
			t.Errorf("reading %d: %v", n, err)
		}
	}
}

func TestGarbageIsAnErrorAndNoMessage(t *testing.T) {
	for _, s := range []string{"", "\x00", "\x00\x00\x00\x05{}", "\x00\x00\x00\x02[]", "GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00\x04null\x00"} {
		r := bufio.NewReader(strings.NewReader(s))
		m, err := readFrame(r)
		if err == nil {
			if d := cmp.Diff(message{}, m); d != "" {
				t.Errorf("%q: %s", s, d)
			}
			_, err = readFrame(r)
		}
		if err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, m := range []message{{ID: 1, AskTerm: true}, {ID: 2, Term: 3}, {ID: 3, Renew: &renewal{Seq: 1}}, {ID: 4, Conns: &connList{Group: "g", Conns: []byte{1}}}, {Grant: &lease.Grant{Held: map[string]uint64{"g": 1}}}} {
		var b bytes.Buffer
		if err := writeFrame(&b, m); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte("\x00\x00\x00\x02{}\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		for {
			m, err := readFrame(r)
			if err != nil {
				return
			}
			var b bytes.Buffer
			if err := writeFrame(&b, m); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			again, err := readFrame(bufio.NewReader(&b))
			if d := cmp.Diff(m, again); d != "" || err != nil {
				t.Fatalf("%v %s", err, d)
			}
		}
	})
}

func FuzzParseWill(f *testing.F) {
	f.Add("boot 5", "boot")
	f.Add("boot 00000000000000000005\n", "boot")
	f.Add("", "")
	f.Add("a b c", "a")
	f.Fuzz(func(t *testing.T, text, boot string) {
		if got := fence.ParseWill(text, boot); !got.IsZero() && (boot == "" || !strings.HasPrefix(strings.TrimSpace(text), boot)) {
			t.Fatalf("the will of another boot covers until %v", got)
		}
	})
}
