package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"hacluster/internal/lab"
)

// inside boots a node with a systemd of its own, copies one program into it and runs that there. It is how tests that need
// systemd as process 1 run on a machine that has another one.
func inside(ctx context.Context, args []string, stdout io.Writer) (err error) {
	if len(args) == 0 {
		return errors.New("inside: say which program to run")
	}
	base, err := lab.SystemdBase(ctx, lab.BaseOptions{Packages: lab.ServicePackages})
	if err != nil {
		return err
	}
	l, err := lab.New(ctx, lab.Options{Name: "inside", Nodes: []string{"n1"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s, err := l.Node("n1").BootSystemd(ctx, base)
	if err != nil {
		return err
	}
	program := filepath.Join("/usr/local/bin", filepath.Base(args[0]))
	if err := s.CopyIn(args[0], program); err != nil {
		return err
	}
	cmd := s.Exec(ctx, program, args[1:]...)
	cmd.Stdout, cmd.Stderr = stdout, stdout
	return cmd.Run()
}
