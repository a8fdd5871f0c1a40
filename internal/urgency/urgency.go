// Package urgency lets had run before others on a busy machine, and what it starts not: a lease is renewed many times a
// second, and a machine on which everybody waits for the processor would lose it although nothing has failed.
package urgency
