package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// far is the other end of a link: each dial gives it one more connection.
type far struct {
	conns chan net.Conn
	dials int
}

func newFar() *far { return &far{conns: make(chan net.Conn, 8)} }

func (f *far) dial(context.Context) (net.Conn, error) {
	near, other := net.Pipe()
	f.dials++ // dials come one at a time
	f.conns <- other
	return near, nil
}

// questions reads n questions of one connection.
func questions(t *testing.T, c net.Conn, n int) []message {
	r := bufio.NewReader(c)
	var out []message
	for range n {
		m, err := readFrame(r)
		if err != nil {
			t.Errorf("reading a question: %v", err)
		}
		out = append(out, m)
	}
	return out
}

func TestAnswersFindTheirQuestionsInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		l := &link{dial: f.dial}
		defer l.close()
		var asking sync.WaitGroup
		for i := range 3 {
			asking.Go(func() {
				a, err := l.call(t.Context(), message{Renew: &renewal{Seq: uint64(i)}})
				if err != nil || a.Term != uint64(i)+100 {
					t.Errorf("question %d: got term %d, %v", i, a.Term, err)
				}
			})
		}
		c := <-f.conns
		all := questions(t, c, 3)
		for i := range all {
			q := all[len(all)-1-i]
			if err := writeFrame(c, message{ID: q.ID, Term: q.Renew.Seq + 100}); err != nil {
				t.Error(err)
			}
		}
		// An answer to nothing is dropped and harms nobody.
		if err := writeFrame(c, message{ID: 999, Term: 1}); err != nil {
			t.Error(err)
		}
		asking.Wait()
		if f.dials != 1 {
			t.Errorf("%d connections for one peer", f.dials)
		}
	})
}

func TestARefusalIsAnErrorAndKeepsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		l := &link{dial: f.dial}
		defer l.close()
		go func() {
			c := <-f.conns
			r := bufio.NewReader(c)
			for i := 0; ; i++ {
				m, err := readFrame(r)
				if err != nil {
					return
				}
				a := message{ID: m.ID, Term: 5}
				if i == 0 {
					a = message{ID: m.ID, Refused: "no"}
				}
				writeFrame(c, a)
			}
		}()
		if _, err := l.call(t.Context(), message{AskTerm: true}); err == nil || err.Error() != "no" {
			t.Errorf("got %v, want the refusal", err)
		}
		if a, err := l.call(t.Context(), message{AskTerm: true}); err != nil || a.Term != 5 || f.dials != 1 {
			t.Errorf("after a refusal: %v, %v, %d connections", a, err, f.dials)
		}
	})
}

func TestASilentPeerCostsItsConnectionAndTheNextCallDialsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		ls := &links{dial: func(ctx context.Context, peer string) (net.Conn, error) { return f.dial(ctx) }}
		defer ls.close()
		read := make(chan error, 1)
		go func() {
			c := <-f.conns
			r := bufio.NewReader(c)
			if _, err := readFrame(r); err != nil {
				t.Errorf("reading the question: %v", err)
			}
			_, err := readFrame(r) // never answers
			read <- err
		}()
		before := time.Now()
		if _, err := ls.call(t.Context(), "b", message{AskTerm: true}, 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a timeout", err)
		}
		if took := time.Since(before); took != 300*time.Millisecond {
			t.Errorf("took %v, want 300ms", took)
		}
		if err := <-read; err == nil {
			t.Error("the connection was kept")
		}
		go func() {
			c := <-f.conns
			m, _ := readFrame(bufio.NewReader(c))
			writeFrame(c, message{ID: m.ID, Term: 9})
		}()
		if a, err := ls.call(t.Context(), "b", message{AskTerm: true}, time.Second); err != nil || a.Term != 9 || f.dials != 2 {
			t.Errorf("got %v, %v, %d connections", a, err, f.dials)
		}
	})
}

func TestACallThatIsGivenUpLeavesTheConnectionToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		l := &link{dial: f.dial}
		defer l.close()
		ctx, cancel := context.WithCancel(t.Context())
		given, kept := make(chan error), make(chan error)
		go func() { _, err := l.call(ctx, message{AskTerm: true}); given <- err }()
		c := <-f.conns
		first := questions(t, c, 1)
		go func() { _, err := l.call(t.Context(), message{AskTerm: true}); kept <- err }()
		second := questions(t, c, 1)
		cancel()
		if err := <-given; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		writeFrame(c, message{ID: first[0].ID}) // too late
		writeFrame(c, message{ID: second[0].ID})
		if err := <-kept; err != nil {
			t.Errorf("kept: %v", err)
		}
	})
}

func TestABrokenConnectionEndsEveryCallOnIt(t *testing.T) {
	for name, breaks := range map[string]func(c net.Conn){
		"closed":  func(c net.Conn) { c.Close() },
		"garbage": func(c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		"too big": func(c net.Conn) { c.Write([]byte{0xff, 0xff, 0xff, 0xff}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFar()
				l := &link{dial: f.dial}
				defer l.close()
				ends := make(chan error, 3)
				for range 3 {
					go func() { _, err := l.call(t.Context(), message{AskTerm: true}); ends <- err }()
				}
				c := <-f.conns
				questions(t, c, 3)
				go breaks(c)
				for range 3 {
					if err := <-ends; !errors.Is(err, errLinkDown) {
						t.Errorf("got %v, want %v", err, errLinkDown)
					}
				}
			})
		})
	}
}

func TestAPeerThatDoesNotReadHoldsACallNoLongerThanItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		l := &link{dial: f.dial}
		defer l.close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.call(ctx, message{AskTerm: true}); err == nil {
			t.Error("a question that nobody read was answered")
		}
	})
}

func TestADialThatFailsIsTriedAgainByTheNextCall(t *testing.T) {
	fails := true
	f := newFar()
	l := &link{dial: func(ctx context.Context) (net.Conn, error) {
		if fails {
			return nil, errors.New("no route")
		}
		return f.dial(ctx)
	}}
	defer l.close()
	if _, err := l.call(t.Context(), message{}); err == nil || err.Error() != "no route" {
		t.Fatalf("got %v", err)
	}
	fails = false
	go func() {
		c := <-f.conns
		m, _ := readFrame(bufio.NewReader(c))
		writeFrame(c, message{ID: m.ID})
	}()
	if _, err := l.call(t.Context(), message{}); err != nil {
		t.Fatal(err)
	}
}

// Close is what the end of an agent waits for: it ends calls under way, joins the readers, and nothing dials afterwards.
func TestCloseEndsCallsJoinsReadersAndRefusesNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		ls := &links{dial: func(ctx context.Context, peer string) (net.Conn, error) { return f.dial(ctx) }}
		ends := make(chan error, 4)
		for i := range 2 {
			go func() {
				_, err := ls.call(t.Context(), fmt.Sprint("peer", i), message{AskTerm: true}, time.Hour)
				ends <- err
			}()
			questions(t, <-f.conns, 1)
		}
		ls.close()
		for range 2 {
			if err := <-ends; !errors.Is(err, errLinkDown) {
				t.Errorf("got %v, want %v", err, errLinkDown)
			}
		}
		if _, err := ls.to("peer0").call(t.Context(), message{}); !errors.Is(err, net.ErrClosed) || f.dials != 2 {
			t.Errorf("after close: %v, %d connections", err, f.dials)
		}
	})
}

func TestCloseWhileDialingClosesWhatComesOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar()
		slow := make(chan struct{})
		l := &link{dial: func(ctx context.Context) (net.Conn, error) { <-slow; return f.dial(ctx) }}
		end := make(chan error, 1)
		go func() { _, err := l.call(t.Context(), message{}); end <- err }()
		synctest.Wait()
		l.close()
		close(slow)
		if err := <-end; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if _, err := (<-f.conns).Read(make([]byte, 1)); err == nil {
			t.Error("the connection was left open")
		}
	})
}
