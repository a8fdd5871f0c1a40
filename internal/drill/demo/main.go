// Command demo forms a three-node cluster in network namespaces of this machine, breaks it three times and says what a
// client noticed. scripts/demo builds and runs it.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
