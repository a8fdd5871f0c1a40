//go:build !linux

package main

import (
	"errors"
	"fmt"
	"io"
)

// run says that there is no lab here.
func run(_ []string, _, stderr io.Writer) int {
	fmt.Fprintln(stderr, "scale: the lab is made of Linux network namespaces:", errors.ErrUnsupported)
	return 1
}
