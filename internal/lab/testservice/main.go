// Command testservice is the service that the lab's clusters run where Tomcat would be too slow: an HTTP server whose
// answer names its node, and an AJP port that answers CPING. It can start late, refuse to stop and hang on demand.
//
// GET / answers "node=NAME pid=PID epoch=EPOCH", GET /slow the same after 3 s, and GET /big 20 MB in that time. SIGUSR1 makes it hang: connections are accepted and never answered.
// SIGUSR2 ends the hang. On Windows there are no such signals; use the paths /hang and /resume, which work everywhere.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// longest is how long a slow answer takes.
const longest = 3 * time.Second

type options struct {
	name, listen, ajp string
	epoch             string
	startDelay        time.Duration
	ignoreTerm        bool
}

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	fs := flag.NewFlagSet("testservice", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.name, "name", os.Getenv("HAD_NODE"), "node `name` in the answers")
	fs.StringVar(&o.listen, "listen", ":8080", "`address` of the HTTP port")
	fs.StringVar(&o.ajp, "ajp", "", "`address` of the AJP port; none without it")
	fs.StringVar(&o.epoch, "epoch", os.Getenv("HAD_EPOCH"), "`epoch` in the answers")
	fs.DurationVar(&o.startDelay, "start-delay", 0, "wait so long before listening")
	fs.BoolVar(&o.ignoreTerm, "ignore-term", false, "do not stop on SIGTERM")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	term := make(chan os.Signal, 4)
	signal.Notify(term, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(term)
	go func() {
		for s := range term {
			if !o.ignoreTerm {
				cancel()
				return
			}
			fmt.Fprintln(stderr, "ignored:", s)
		}
	}()
	if err := serve(ctx, o, stdout); err != nil {
		fmt.Fprintln(stderr, "testservice:", err)
		return 1
	}
	return 0
}

// serve runs until ctx ends. A hanging service ends with it too.
func serve(ctx context.Context, o options, stdout io.Writer) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(o.startDelay):
	}
	h := newHang()
	stop := h.onSignals()
	defer stop()
	srv := &http.Server{Handler: handler(o, h), ReadHeaderTimeout: 10 * time.Second}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listening for HTTP: %w", err)
	}
	failed := make(chan error, 2)
	go func() { failed <- srv.Serve(ln) }()
	if o.ajp != "" {
		aln, err := net.Listen("tcp", o.ajp)
		if err != nil {
			srv.Close()
			return fmt.Errorf("listening for AJP: %w", err)
		}
		defer aln.Close()
		go func() { failed <- serveAJP(aln, h) }()
	}
	fmt.Fprintf(stdout, "serving node=%s on %s\n", o.name, ln.Addr())
	select {
	case <-ctx.Done():
		return srv.Close()
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return errors.Join(err, srv.Close())
	}
}

func handler(o options, h *hang) http.Handler {
	mux := http.NewServeMux()
	body := fmt.Sprintf("node=%s pid=%d epoch=%s\n", o.name, os.Getpid(), o.epoch)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if h.wait(r.Context().Done()) {
			io.WriteString(w, body)
		}
	})
	// What is long under way: /slow answers after 3 s, /big with 20 MB that take about as long.
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(longest):
			io.WriteString(w, body)
		}
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		const size, parts = 20 << 20, 128
		w.Header().Set("Content-Length", strconv.Itoa(size))
		for range parts {
			if _, err := w.Write(make([]byte, size/parts)); err != nil {
				return
			}
			time.Sleep(longest / parts)
		}
	})
	mux.HandleFunc("/hang", func(http.ResponseWriter, *http.Request) { h.set(true) })
	mux.HandleFunc("/resume", func(http.ResponseWriter, *http.Request) { h.set(false) })
	return mux
}
