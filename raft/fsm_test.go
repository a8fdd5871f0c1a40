package raft

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	hraft "github.com/hashicorp/raft"

	"hacluster/placement"
)

func newTestFSM(apply func(placement.State, placement.Command) (placement.State, placement.Result)) *fsm {
	return newFSM(apply, func(placement.State) {}, slog.New(slog.DiscardHandler))
}

func TestEntriesThatCannotBeUnderstoodAreSkipped(t *testing.T) {
	f := newTestFSM(func(s placement.State, c placement.Command) (placement.State, placement.Result) {
		if c.Group == "bomb" {
			s.Cluster = "half done"
			panic("boom")
		}
		return s.Apply(c)
	})
	for i, tc := range []struct{ name, data, why string }{
		{"no JSON", "\x00\xff", "decoding"},
		{"nothing", "", "decoding"},
		{"another type", `[1,2]`, "decoding"},
		{"a kind of a later version", `{"kind":"teleport"}`, "teleport"},
		{"one on which Apply panics", `{"kind":"note","group":"bomb"}`, "boom"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			index := uint64(i + 10)
			a := f.Apply(&hraft.Log{Index: index, Term: 3, Data: []byte(tc.data)}).(applied)
			if a.result.Applied || !strings.Contains(a.result.Why, tc.why) {
				t.Errorf("got %+v", a.result)
			}
			s := f.current()
			if s.Index != index {
				t.Errorf("index %d, want %d: an entry was passed, whatever was in it", s.Index, index)
			}
			s.Index = 0
			if !reflect.DeepEqual(s, placement.State{}) {
				t.Errorf("it left a trace: %+v", s)
			}
		})
	}
}

func TestSnapshotOfAnotherFormatIsRefused(t *testing.T) {
	f := newTestFSM(placement.State.Apply)
	for name, s := range map[string]string{"format": `{"format":2,"state":{}}`, "decoding": `{"format":`} {
		if err := f.Restore(io.NopCloser(strings.NewReader(s))); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// FuzzApply feeds log entries to the state machine as it runs in production: no panic, a state that can be written and
// read back the same, and the index of the entry.
func FuzzApply(f *testing.F) {
	for _, c := range []placement.Command{
		note("x"),
		{Kind: placement.CmdInit, Cluster: "shop", ID: "c0ffee"},
		{Kind: placement.CmdNode, Node: "n1", NodeInfo: &placement.NodeState{ID: "a", Role: placement.RoleMember, Admin: placement.AdminUp}},
		{Kind: placement.CmdAssign, Group: "web", Node: "n1", Epoch: 1},
		{Kind: "later", Node: "n1"},
	} {
		b, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"kind":"config","policy":{"groups":[{"name":"g","resources":[{}]}]}}`))
	f.Add([]byte(`null`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		panicked := ""
		m := newTestFSM(func(s placement.State, c placement.Command) (_ placement.State, _ placement.Result) {
			defer func() {
				if p := recover(); p != nil {
					panicked = string(data)
					panic(p)
				}
			}()
			return s.Apply(c)
		})
		m.Apply(&hraft.Log{Index: 7, Term: 1, Data: data})
		if panicked != "" {
			t.Errorf("placement panics on %q", panicked)
		}
		s := m.current()
		if s.Index != 7 {
			t.Errorf("index %d", s.Index)
		}
		var one, two bytes.Buffer
		if err := json.NewEncoder(&one).Encode(snapshotFile{Format: snapshotFormat, State: s}); err != nil {
			t.Fatal(err)
		}
		back, err := decodeSnapshot(bytes.NewReader(one.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewEncoder(&two).Encode(snapshotFile{Format: snapshotFormat, State: back}); err != nil || !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Errorf("a snapshot changes the state:\n%s%s", one.Bytes(), two.Bytes())
		}
	})
}

func FuzzDecodeSnapshot(f *testing.F) {
	f.Add([]byte(`{"format":1,"state":{"cluster":"shop","index":3}}`))
	f.Add([]byte(`{"format":9}`))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = decodeSnapshot(bytes.NewReader(b)) })
}

func FuzzDecodeEntry(f *testing.F) {
	k := key(5)
	f.Add(encodeEntry(k, &hraft.Log{Index: 5, Term: 2, Data: []byte("data"), Extensions: []byte("ext")}))
	f.Add(seal(k, []byte("short")))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l hraft.Log
		if err := decodeEntry(k, b, &l); err == nil && !bytes.Equal(encodeEntry(k, &l), b) {
			t.Errorf("%x decodes to %+v", b, l)
		}
		_ = decodeEntry(k, seal(k, b), &l) // past the checksum
	})
}
