package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// AJP 1.3 as far as a health check needs it: a packet from the web server is 12 34, two bytes of length, the body; CPING is
// the body 0A and its answer 41 42 00 01 09.
const (
	ajpPing   = 0x0a
	ajpMaxLen = 8192 // the protocol's default packet size
)

var ajpPong = []byte{0x41, 0x42, 0x00, 0x01, 0x09}

var errNotAJP = errors.New("not an AJP packet")

// readAJP reads one packet and returns its body.
func readAJP(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(head[2:])
	if head[0] != 0x12 || head[1] != 0x34 || n == 0 || n > ajpMaxLen {
		return nil, fmt.Errorf("%w: header % x", errNotAJP, head)
	}
	body := make([]byte, n)
	_, err := io.ReadFull(r, body)
	return body, err
}

func serveAJP(ln net.Listener, h *hang) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return fmt.Errorf("accepting AJP: %w", err)
		}
		go answerAJP(c, h)
	}
}

// answerAJP answers pings and hangs up on everything else.
func answerAJP(c net.Conn, h *hang) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		c.SetDeadline(time.Now().Add(time.Minute))
		body, err := readAJP(r)
		if err != nil || len(body) != 1 || body[0] != ajpPing {
			return
		}
		if !h.wait(nil) {
			return
		}
		c.SetDeadline(time.Now().Add(time.Minute)) // a hang may have eaten the first one
		if _, err := c.Write(ajpPong); err != nil {
			return
		}
	}
}
