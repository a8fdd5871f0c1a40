// Package config reads had.toml (this node) and cluster.toml (the groups). Both are strict: an unknown key is an error
// with the nearest known key, and all faults of a file are reported at once, each with file, line, key and reason.
package config

import (
	"net/netip"
	"time"

	"hacluster/fence"
	"hacluster/health"
	"hacluster/lease"
	"hacluster/placement"
	"hacluster/resources"
)

// Node is had.toml: what this machine is. Everything else is in the replicated cluster configuration.
type Node struct {
	Name       string
	Role       placement.Role
	Addresses  []string // IPs or host names of this node on the cluster networks, in order of preference
	Port       int      // TCP: Raft, leases and API
	GossipPort int      // UDP and TCP
	DataDir    string
	Socket     string // local control
	TLS        TLSFiles
	Log        Log
	Watchdog   Watchdog
}

// TLSFiles are the files that `hactl init` and `hactl join` write.
type TLSFiles struct{ CA, Cert, Key, GossipKey string }

// Log says how loud and how.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // text, json
}

// Cluster is cluster.toml.
type Cluster struct {
	Name           string
	KernelLease    KernelLease
	Timing         lease.Timing // on the layer that KernelLease came to
	GroupWaitDelay time.Duration
	Nodes          []string // optional: the members this file expects; owners are checked against them
	Witnesses      []string
	FencePolicy    fence.Policy
	FenceAction    fence.Action // Off or Reboot
	Fences         []fence.Device
	Groups         []Group
}

// Group is one [[group]].
type Group struct {
	placement.GroupPolicy
	Resources []Resource // shadows GroupPolicy.Resources, which Policy() fills
}

// Resource is one [[group.resource]].
type Resource struct {
	placement.ResourcePolicy
	Spec      resources.Spec
	Address   netip.Prefix  // type = "address"
	Interface string        // type = "address": empty: by subnet
	Tickle    bool          // type = "address": clients of an owner that was lost are told
	Owners    []string      // possible_owners of this resource; empty: all
	Deadlock  time.Duration // deadlock_timeout: a driver call that ignores its bound is abandoned this long after it
	Probes    []health.Spec
}

// Known is what the cluster knows beside the file; the zero value checks owners against the file's own lists only.
type Known struct {
	Members   []string
	Witnesses []string
	// KernelLease is what kernel_lease = "auto" came to when the configuration was applied; empty: the address lifetime.
	KernelLease lease.Layer
}
