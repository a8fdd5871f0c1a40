package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// runsFor finds a `had run` that was started with this had.toml: between two starts of its agent it has no socket and
// holds no file.
func runsFor(config string) (pid int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		if err != nil || len(args) < 2 || filepath.Base(args[0]) != "had" || args[1] != "run" {
			continue
		}
		of := "/etc/had/had.toml"
		for i, a := range args {
			for _, name := range []string{"--config", "-config", "-c"} {
				if a == name && i+1 < len(args) {
					of = args[i+1]
				} else if v, ok := strings.CutPrefix(a, name+"="); ok {
					of = v
				}
			}
		}
		if slices.Contains([]string{config, filepath.Clean(config)}, of) {
			return id
		}
	}
	return 0
}
