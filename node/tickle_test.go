package node

import (
	"bufio"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hacluster/internal/boottime"
	"hacluster/placement"
	"hacluster/vip"
)

// someConns are n connections to a floating address.
func someConns(addr, client string, n int) (out []vip.Conn) {
	for i := range n {
		out = append(out, vip.Conn{Local: netip.AddrPortFrom(netip.MustParseAddr(addr), 443), Remote: netip.AddrPortFrom(netip.MustParseAddr(client), uint16(10000+i))})
	}
	return out
}

func listOf(addr string, conns []vip.Conn) connList {
	return connList{Group: "web", Resource: "ip", Address: addr, Epoch: 3, Boot: "x", Seq: 1, Conns: packConns(conns)}
}

func TestAListOfConnectionsIsReadAsItWasWritten(t *testing.T) {
	for addr, client := range map[string]string{"198.18.0.100": "198.18.0.3", "fd00:18::100": "fd00:18::3"} {
		for _, n := range []int{0, 1, vip.MaxTickles} {
			want := someConns(addr, client, n)
			got, err := listOf(addr, want).conns()
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s, %d: %v", addr, n, err)
			}
		}
	}
	if n := len(packConns(someConns("fd00:18::100", "fd00:18::3", vip.MaxTickles))); n > 100<<10 {
		t.Errorf("the longest list has %d bytes", n)
	}
}

func TestAListThatCannotBeIsRefused(t *testing.T) {
	good := someConns("198.18.0.100", "198.18.0.3", 1)
	for name, l := range map[string]connList{
		"too many":          listOf("198.18.0.100", someConns("198.18.0.100", "198.18.0.3", vip.MaxTickles+1)),
		"no address":        listOf("", good),
		"a name":            listOf("vip.example.org", good),
		"a zone":            listOf("fe80::1%eth0", nil),
		"IPv4 within IPv6":  listOf("::ffff:198.18.0.100", nil),
		"half a connection": {Address: "198.18.0.100", Conns: packConns(good)[:7]},
		"other family":      listOf("fd00:18::100", good),
		"itself":            listOf("198.18.0.100", someConns("198.18.0.100", "198.18.0.100", 1)),
		"loopback":          listOf("198.18.0.100", someConns("198.18.0.100", "127.0.0.1", 1)),
		"everybody":         listOf("198.18.0.100", someConns("198.18.0.100", "255.255.255.255", 1)),
		"a group":           listOf("fd00:18::100", someConns("fd00:18::100", "ff02::1", 1)),
		"this link only":    listOf("fd00:18::100", someConns("fd00:18::100", "fe80::1", 1)),
		"mapped":            listOf("fd00:18::100", someConns("fd00:18::100", "::ffff:198.18.0.3", 1)),
		"no port":           {Address: "198.18.0.100", Conns: []byte{1, 187, 198, 18, 0, 3, 0, 0}},
	} {
		if got, err := l.conns(); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzConnList(f *testing.F) {
	f.Add("198.18.0.100", packConns(someConns("198.18.0.100", "198.18.0.3", 2)))
	f.Add("fd00:18::100", packConns(someConns("fd00:18::100", "fd00:18::3", 2)))
	f.Add("::ffff:1.2.3.4", []byte("12345678"))
	f.Fuzz(func(t *testing.T, addr string, b []byte) {
		conns, err := connList{Address: addr, Conns: b}.conns()
		if err != nil {
			return
		}
		if len(conns) > vip.MaxTickles || !slices.Equal(packConns(conns), b) {
			t.Fatalf("%d connections, not what was read", len(conns))
		}
		for _, c := range conns {
			if !tickleable(c) || c.Local.Addr().String() == c.Remote.Addr().String() {
				t.Fatalf("%v", c)
			}
		}
	})
}

func moved(kind placement.CommandKind, from, to string, epoch uint64) placement.Event {
	return placement.Event{Kind: string(kind), Group: "web", From: from, To: to, Epoch: epoch}
}

// Only what was taken without a word left clients hanging: who gives a group up resets its connections, or lets them finish.
func TestOnlyAnOwnerThatWasLostIsOne(t *testing.T) {
	other := moved(placement.CmdTakeover, "a", "b", 4)
	other.Group = "db"
	for name, c := range map[string]struct {
		events []placement.Event
		want   bool
	}{
		"taken over":               {[]placement.Event{moved(placement.CmdTakeover, "a", "b", 4)}, true},
		"taken, then given":        {[]placement.Event{moved(placement.CmdTakeover, "a", "", 3), moved(placement.CmdAssign, "", "b", 4)}, true},
		"taken, then taken again":  {[]placement.Event{moved(placement.CmdTakeover, "a", "b", 4), moved(placement.CmdTakeover, "b", "c", 5)}, true},
		"released":                 {[]placement.Event{moved(placement.CmdReleased, "a", "b", 4)}, false},
		"released, then given":     {[]placement.Event{moved(placement.CmdReleased, "a", "", 3), moved(placement.CmdAssign, "", "b", 4)}, false},
		"released, next lost":      {[]placement.Event{moved(placement.CmdReleased, "a", "b", 4), moved(placement.CmdTakeover, "b", "c", 5)}, false},
		"lost before that":         {[]placement.Event{moved(placement.CmdTakeover, "a", "b", 3), moved(placement.CmdReleased, "b", "a", 3)}, false},
		"lost after that":          {[]placement.Event{moved(placement.CmdReleased, "a", "b", 4), moved(placement.CmdTakeover, "a", "b", 6)}, false},
		"another group":            {[]placement.Event{other}, false},
		"the history is too short": {nil, false},
	} {
		if got := takenFrom(placement.State{Events: c.events}, "web", "a", 3); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTheNewestListOfTheNewestEpochIsKept(t *testing.T) {
	tk, k := &tickles{known: map[key]*knownList{}}, key{"web", "ip"}
	has := func(epoch uint64, boot string, seq uint64) {
		t.Helper()
		if l := tk.known[k]; l.Epoch != epoch || l.Boot != boot || l.Seq != seq {
			t.Errorf("kept %+v", l.connList)
		}
	}
	keep := func(epoch uint64, boot string, seq uint64) {
		tk.keep(k, "a", connList{Group: "web", Resource: "ip", Epoch: epoch, Boot: boot, Seq: seq})
	}
	keep(3, "x", 5)
	keep(3, "x", 4)
	has(3, "x", 5)
	keep(3, "x", 6)
	has(3, "x", 6)
	keep(3, "y", 1) // the agent was started again
	has(3, "y", 1)
	keep(4, "z", 1)
	keep(3, "y", 9)
	has(4, "z", 1)
}

// The lists of an epoch that has passed are kept for the new owner, for a while.
func TestListsOfPassedEpochsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		fixed := boottime.Now()
		n := &Node{name: "b", clock: func() time.Time { return fixed.Add(time.Since(begun)) }}
		tk := &tickles{n: n, wake: make(chan struct{}, 1), known: map[key]*knownList{}}
		tk.keep(key{"web", "ip"}, "a", listOf("198.18.0.100", someConns("198.18.0.100", "198.18.0.3", 2)))
		tk.keep(key{"gone", "ip"}, "a", listOf("198.18.0.100", nil))
		at := func(epoch uint64) int {
			tk.follow(placement.State{Groups: map[string]placement.GroupState{"web": {Epoch: epoch}}}, placement.Local{Node: "b"}, nil)
			return len(tk.known)
		}
		if n := at(3); n != 1 {
			t.Errorf("of a group that is gone: %d lists", n)
		}
		time.Sleep(time.Hour)
		if at(3) != 1 || at(4) != 1 {
			t.Error("the list of an epoch that lasts, or has just passed, was forgotten")
		}
		time.Sleep(keepPassed - time.Second)
		if at(4) != 1 {
			t.Error("forgotten too early")
		}
		time.Sleep(2 * time.Second)
		if at(4) != 0 {
			t.Error("kept for ever")
		}
		select {
		case <-tk.wake:
			t.Error("who holds nothing was woken")
		default:
		}
	})
}

// What this node is not online with it tells nothing of.
func TestOnlyWhatIsHeldIsToldOf(t *testing.T) {
	k := key{"web", "ip"}
	a := &address{spec: vip.Spec{Group: "web", Resource: "ip", Address: netip.MustParsePrefix("198.18.0.100/24")}, tickling: true}
	good := func() (placement.State, placement.Local) {
		return placement.State{Groups: map[string]placement.GroupState{"web": {Epoch: 3, Owner: "b", Phase: placement.PhaseOwned}}},
			placement.Local{Node: "b", Leased: map[string]time.Time{"web": {}}, Resources: map[string]map[string]placement.LocalResource{"web": {"ip": {State: placement.StateOnline}}}}
	}
	for name, spoil := range map[string]func(placement.State, placement.Local){
		"held":       func(placement.State, placement.Local) {},
		"no lease":   func(_ placement.State, l placement.Local) { delete(l.Leased, "web") },
		"not online": func(_ placement.State, l placement.Local) { l.Resources["web"]["ip"] = placement.LocalResource{} },
		"another owns": func(s placement.State, _ placement.Local) {
			s.Groups["web"] = placement.GroupState{Epoch: 3, Owner: "a", Phase: placement.PhaseOwned}
		},
		"given up": func(s placement.State, _ placement.Local) {
			s.Groups["web"] = placement.GroupState{Epoch: 3, Owner: "b", Phase: placement.PhaseReleasing}
		},
		"switched off": func(placement.State, placement.Local) { a.tickling = false },
	} {
		a.tickling = true
		tk := &tickles{n: &Node{name: "b", clock: boottime.Now}, wake: make(chan struct{}, 1)}
		st, local := good()
		spoil(st, local)
		tk.follow(st, local, map[key]*address{k: a})
		want := []heldAddress{{k, a.spec.Address.Addr(), 3}}
		if (name == "held") != slices.Equal(tk.held, want) || name != "held" && len(tk.held) != 0 || len(tk.wake) != len(tk.held) {
			t.Errorf("%s: %v, woken %d", name, tk.held, len(tk.wake))
		}
	}
}

// A message that an older agent does not know is a refusal, not the end of the connection: see answer. And what a newer one says
// besides is no fault.
func TestUnknownPartsOfAListAreNoFault(t *testing.T) {
	var b strings.Builder
	body := `{"id":1,"conns":{"group":"web","resource":"ip","address":"198.18.0.100","epoch":3,"boot":"x","seq":1,"new":{"a":[1]}},"later":true}`
	b.Write([]byte{0, 0, 0, byte(len(body))})
	b.WriteString(body)
	m, err := readFrame(bufio.NewReader(strings.NewReader(b.String())))
	if err != nil || m.Conns == nil || m.Conns.Epoch != 3 {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, err := m.Conns.conns(); err != nil {
		t.Error(err)
	}
	if a := (&Node{}).answer(t.Context(), "a", message{ID: 1}); a.Refused == "" { // as an older agent finds it: nothing that it knows
		t.Errorf("%+v", a)
	}
}
