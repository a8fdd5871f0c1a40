// Command labctl prepares and cleans what the lab needs on a machine, for scripts:
//
//	labctl sweep [--all]               remove what crashed labs left (--all: also labs left running on purpose)
//	labctl base [--services] [--pack]  make or find the Debian tree of the systemd nodes, print its path
//	labctl inside PROGRAM [ARGUMENTS]  run a program in a node with a systemd of its own
//	labctl client --netns FILE --target ADDR:PORT --for 10s
//	                                   one new connection every 5 ms; prints what was lost
//	labctl stalls                      when this machine stood still, a line each, until it is ended
package main

import (
	"os"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
