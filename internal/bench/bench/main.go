// Command bench puts had, keepalived, Pacemaker and an address moved by hand through the same faults in network namespaces
// of this machine and compares what clients lose. scripts/bench builds and runs it.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
