package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"hacluster/api"
	"hacluster/internal/wire"
)

// listen opens the local socket and returns what serves it and the protocols of the cluster port.
func (n *Node) listen() ([]func(), error) {
	local, err := listenSocket(n.cfg.Socket)
	if err != nil {
		return nil, err
	}
	b, o := backend{n}, api.Options{Node: n.name, Version: n.version, Log: n.log}
	full, join := api.NewServer(b, o), api.NewJoinServer(b, o)
	serve := func(handler *api.Server, ln net.Listener) func() {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, ConnContext: wire.ConnContext}
		return func() {
			context.AfterFunc(n.ctx, func() {
				handler.Close()
				server.Close()
			})
			if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) && n.ctx.Err() == nil {
				n.fail(fmt.Errorf("serving %s: %w", ln.Addr(), err))
			}
		}
	}
	leases := n.mux.Listener(wire.ALPNLease)
	return []func(){
		serve(full, local),
		serve(full, n.mux.Listener(wire.ALPNAPI)),
		serve(join, n.mux.Listener(wire.ALPNJoin)),
		func() { n.serveLeases(n.ctx, leases) },
	}, nil
}

// listenSocket opens the control socket for root only. A file left by a former agent is replaced; a living agent is not.
func listenSocket(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another had is running on this node", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}
