// Package tidy holds the tests that look at the whole tree instead of running it: which package may import which, what the
// pure packages must not do, and whether the code is kept the way docs and style ask for.
package tidy
