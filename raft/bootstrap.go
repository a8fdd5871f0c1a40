package raft

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	hraft "github.com/hashicorp/raft"
)

// Bootstrap makes the named node the first and only voter of a new group. Every other node joins it; bootstrapping twice
// would make two clusters of one name. Errors wrap ErrExists or ErrStorage.
func Bootstrap(dir, name string, log *slog.Logger) (err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := openStore(filepath.Join(dir, storeFile), true, func(error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	logger := newLogger(log)
	snaps, err := openSnapshots(dir, logger)
	if err != nil {
		return err
	}
	_, trans := hraft.NewInmemTransport(hraft.ServerAddress(name))
	conf := hraft.DefaultConfig()
	conf.LocalID, conf.Logger = hraft.ServerID(name), logger
	err = hraft.BootstrapCluster(conf, s, s, snaps, trans, hraft.Configuration{Servers: []hraft.Server{
		{Suffrage: hraft.Voter, ID: hraft.ServerID(name), Address: hraft.ServerAddress(name)}}})
	if errors.Is(err, hraft.ErrCantBootstrap) {
		return fmt.Errorf("%w in %s: this node is a member already; to begin anew move the directory away", ErrExists, dir)
	}
	return err
}
