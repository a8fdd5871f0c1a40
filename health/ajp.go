package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
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
	return func(ctx context.Context) answer {
		conn, err := dial(ctx, s.Host, strconv.Itoa(s.Port))
		if err != nil {
			return judge(err)
		}
		defer conn.Close()
		defer bind(ctx, conn)() // one absolute deadline: slow bytes do not extend it
		if _, err := conn.Write(cping); err != nil {
			return judge(fmt.Errorf("sending CPING: %w", err))
		}
		if err := readPong(conn); err != nil {
			return judge(fmt.Errorf("waiting for CPONG: %w", err))
		}
		return say(Pass, "CPONG from %s", conn.RemoteAddr())
	}, nil
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
