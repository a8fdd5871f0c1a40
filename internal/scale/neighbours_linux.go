package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// neighboursFile bounds how many neighbours the kernel knows, those of all network namespaces together (arp(7)).
const neighboursFile = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"

// neighbours says what to do where this machine could not hold a cluster of that size: each node may have every other one for a neighbour. Above
// the bound the kernel drops packets to who is new, which looks like a cluster that does not form.
func neighbours(nodes int, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil // not to be seen from where this runs
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	if need := nodes * (nodes + 1); need > most {
		return fmt.Errorf("this kernel keeps %d neighbours for all namespaces together, this may take %d: sysctl -w net.ipv4.neigh.default.gc_thresh3=%d", most, need, 2*need)
	}
	return nil
}
