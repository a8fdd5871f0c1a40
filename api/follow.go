package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hacluster/placement"
)

// Bounds of following a stream.
const (
	followRetryMin = 200 * time.Millisecond
	followRetryMax = 5 * time.Second
	maxEventLine   = 4 << 20 // bytes of one line of a stream
)

// Follow hands every event newer than since to each, in order and once, until ctx ends or each returns an error, which
// it returns. A lost connection is opened again and resumes after the newest event seen; lost, if not nil, is told. The
// first connection must succeed.
func (c *Client) Follow(ctx context.Context, since uint64, each func(placement.Event) error, lost func(error)) error {
	connected, delay := false, followRetryMin
	for {
		err := c.followOnce(ctx, &since, &connected, func(e placement.Event) error {
			delay = followRetryMin
			return each(e)
		})
		var stop *stopError
		if errors.As(err, &stop) {
			return stop.err
		}
		if ctx.Err() != nil {
			return c.transport(ctx, ctx.Err())
		}
		var refused *Error
		if errors.As(err, &refused) && (!connected || refused.Code == CodeInvalid || refused.Code == CodeUnauthorized) {
			return refused
		}
		if lost != nil {
			lost(err)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return c.transport(ctx, ctx.Err())
		}
		delay = min(2*delay, followRetryMax)
	}
}

// stopError is what the caller's function returned.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// followOnce reads one connection to its end.
func (c *Client) followOnce(ctx context.Context, since *uint64, connected *bool, each func(placement.Event) error) error {
	req, err := c.request(ctx, "GET", "/v1/events?follow=1", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", strconv.FormatUint(*since, 10))
	res, err := c.http.Do(req)
	if err != nil {
		return c.transport(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, MaxBody))
		if e := refusal(res.StatusCode, b); e != nil {
			return e
		}
		return fmt.Errorf("the agent answered HTTP %d", res.StatusCode)
	}
	*connected = true
	return readEvents(res.Body, func(e placement.Event) error {
		if e.Seq <= *since {
			return nil
		}
		*since = e.Seq
		if err := each(e); err != nil {
			return &stopError{err}
		}
		return nil
	})
}

// readEvents parses server-sent events until r ends or each returns an error. Comments and unknown fields are skipped.
func readEvents(r io.Reader, each func(placement.Event) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxEventLine)
	var data bytes.Buffer
	for sc.Scan() {
		line := sc.Text()
		if v, ok := strings.CutPrefix(line, "data:"); ok {
			if data.Len() > 0 {
				data.WriteByte('\n')
			}
			data.WriteString(strings.TrimPrefix(v, " "))
			if data.Len() > maxEventLine {
				return errors.New("an event of the stream is too long")
			}
			continue
		}
		if line != "" || data.Len() == 0 {
			continue
		}
		var e placement.Event
		if err := json.Unmarshal(data.Bytes(), &e); err != nil {
			return fmt.Errorf("decoding an event of the stream: %w", err)
		}
		data.Reset()
		if err := each(e); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("reading the event stream: %w", err)
	}
	return io.ErrUnexpectedEOF
}
