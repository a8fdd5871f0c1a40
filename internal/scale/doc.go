// Command scale puts real clusters of many nodes and groups in network namespaces of this machine and measures what each
// agent costs at rest, by its part in the cluster, and how long all groups of a dead node take to be online again.
// scripts/scale builds and runs it.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
