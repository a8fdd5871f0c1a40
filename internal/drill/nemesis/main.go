// Command nemesis puts real clusters in network namespaces of this machine through random faults, drawn from a seed, and says
// what clients lost and whether a guarantee broke. scripts/nemesis builds and runs it.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
