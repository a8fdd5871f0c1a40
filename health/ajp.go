package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// CPING from a web server and the CPONG of a servlet container, AJP13 with Tomcat's extension ("ajpv13a", CPing
// packet type 10, CPong 9). A connector with a secret answers CPING without it.
var (
	cping = []byte{0x12, 0x34, 0x00, 0x01, 0x0A}
	cpong = []byte{0x41, 0x42, 0x00, 0x01, 0x09}
)

var errAJP = errors.New("not a CPONG")

// newAJP asks for a CPONG, which a connector gives only when one of its worker threads is free.
func newAJP(s Spec) (asker, error) {
	if err := needHostPort(s); err != nil {
		return nil, err
	}
	p := &ajpProbe{host: s.Host, port: strconv.Itoa(s.Port), keep: ajpKeep}
	return p.ask, nil
}

// ajpKeep is how long a connection is used again. It is kept because a web server keeps its own, and because ten questions
// a second then cost next to nothing; it is not kept for ever because a connector may still answer its old connections
// when it takes no new ones.
const ajpKeep = 5 * time.Second

// ajpProbe asks over one connection. The guard around it lets only one question at a time in.
type ajpProbe struct {
	host, port string
	keep       time.Duration
	conn       net.Conn // closed by a timer at the end of keep, also when nobody asks any more
}

func (p *ajpProbe) ask(ctx context.Context) answer {
	if p.conn != nil {
		conn := p.conn
		err := ping13(ctx, conn)
		if err == nil && ctx.Err() == nil {
			return say(Pass, "CPONG from %s", conn.RemoteAddr())
		}
		p.conn = nil
		conn.Close()
		if err == nil { // the deadline of the connection may be in the past by now: it is not asked again
			return say(Pass, "CPONG from %s", conn.RemoteAddr())
		}
		// A connection that ended says nothing of the connector: it may have been restarted, or have closed what was idle.
		if isTimeout(err) {
			return judge(err)
		}
	}
	conn, err := dial(ctx, p.host, p.port)
	if err != nil {
		return judge(err)
	}
	err = ping13(ctx, conn)
	if err != nil || ctx.Err() != nil {
		conn.Close()
	} else {
		p.conn = conn
		time.AfterFunc(p.keep, func() { conn.Close() })
	}
	if err != nil {
		return judge(err)
	}
	return say(Pass, "CPONG from %s", conn.RemoteAddr())
}

// ping13 sends one CPING and waits for its CPONG.
func ping13(ctx context.Context, conn net.Conn) error {
	defer bind(ctx, conn)() // one absolute deadline: slow bytes do not extend it
	if _, err := conn.Write(cping); err != nil {
		return fmt.Errorf("sending CPING: %w", err)
	}
	if err := readPong(conn); err != nil {
		return fmt.Errorf("waiting for CPONG: %w", err)
	}
	return nil
}

// readPong reads the five bytes of a CPONG and nothing more. It stops at the first wrong byte, so that a peer that sends
// half a frame of something else is not waited for.
func readPong(r io.Reader) error {
	got := make([]byte, 0, len(cpong))
	for len(got) < len(cpong) {
		n, err := r.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
		if !bytes.HasPrefix(cpong, got) {
			return fmt.Errorf("%w: got % x", errAJP, got)
		}
		if len(got) == len(cpong) {
			break
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: the peer closed the connection after %d bytes", errAJP, len(got))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
