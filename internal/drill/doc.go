// Package drill forms a real cluster of had agents in a lab and puts it through faults: the demo, the end-to-end tests and
// the measurements all run the same drills, with the binaries a user installs and through hactl as a user would.
package drill
