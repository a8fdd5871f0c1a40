// Package bench puts had and its peers (keepalived, Pacemaker with corosync, and an address moved by hand) through the same
// faults in the same kind of lab, with the same client and the same judges of double ownership, and says how long clients
// were without an answer. Systems take turns within one run, so that a noisy hour hits all of them.
//
// What it is not: it does not decide whether had is correct (internal/drill and its nemesis do), and it tunes nobody. How each
// peer is set up is written down beside the code that starts it, and in the report.
package bench
