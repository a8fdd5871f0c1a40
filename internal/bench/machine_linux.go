package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// needs names the programs without which a system cannot be formed, and the Debian packages they are in.
func needs(system string) [][2]string {
	switch {
	case strings.HasPrefix(system, "keepalived"):
		return [][2]string{{"keepalived", "keepalived"}, {"curl", "curl"}}
	case strings.HasPrefix(system, "pacemaker"):
		return [][2]string{{"pacemakerd", "pacemaker"}, {"corosync", "corosync"}, {"crm_resource", "pacemaker-cli-utils"},
			{"/usr/lib/ocf/resource.d/heartbeat/IPaddr2", "resource-agents"}, {"curl", "curl"}}
	}
	return nil
}

// Missing lists the Debian packages that systems need and this machine has not.
func Missing(systems ...string) (packages []string) {
	for _, system := range systems {
		for _, need := range needs(system) {
			if _, err := exec.LookPath(need[0]); err != nil && !slices.Contains(packages, need[1]) {
				packages = append(packages, need[1])
			}
		}
	}
	return packages
}

// ThisMachine describes what the runs are made on. What cannot be found out is left empty.
func ThisMachine(ctx context.Context, systems []string) Machine {
	m := Machine{Processors: runtime.NumCPU(), Versions: map[string]string{}}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	for _, system := range systems {
		for _, need := range needs(system) {
			if need[1] == "curl" || m.Versions[need[1]] != "" {
				continue
			}
			if out, err := exec.CommandContext(ctx, "dpkg-query", "--show", "--showformat=${Version}", need[1]).Output(); err == nil {
				m.Versions[need[1]] = string(out)
			}
		}
	}
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		m.Versions["had"] = strings.TrimSpace(string(out))
	}
	return m
}

// missing is an error for systems that cannot be formed here.
func missing(systems []string) error {
	if list := Missing(systems...); len(list) > 0 {
		return fmt.Errorf("these Debian packages are missing: %s", strings.Join(list, " "))
	}
	return nil
}
