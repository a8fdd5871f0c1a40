package main

// runsFor is not needed here: the service has no moment without its files open.
func runsFor(string) (pid int) { return 0 }
