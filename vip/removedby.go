package vip

import (
	"fmt"
	"io/fs"
	"strings"
)

// Remover is a program on this host that is known to remove addresses it did not add.
type Remover struct {
	Name    string // of the program
	Setting string // what to change, one sentence
}

// removers lists what is known, with the file that exists while the program runs.
var removers = []struct {
	running string // below the root of the file system
	name    string
	setting string // %s is the interface
}{
	{"run/systemd/netif/state", "systemd-networkd",
		"set KeepConfiguration=static under [Network] in the .network file of %s (systemd.network(5), systemd 243 or newer)"},
	{"run/NetworkManager", "NetworkManager",
		"configure %[1]s with a fixed profile that is not reapplied by scripts, or set unmanaged-devices=interface-name:%[1]s under [keyfile] (NetworkManager.conf(5))"},
	{"run/connman", "ConnMan", "add %s to NetworkInterfaceBlacklist (connman.conf(5))"},
	{"run/dhcpcd", "dhcpcd", "add \"denyinterfaces %s\" (dhcpcd.conf(5)) where the interface has a fixed address"},
}

// RemovedBy lists the programs running on this host that usually remove foreign addresses from an interface. root is
// the file system of the host: os.DirFS("/").
func RemovedBy(root fs.FS, ifname string) []Remover {
	if ifname == "" {
		ifname = "the interface"
	}
	var found []Remover
	for _, r := range removers {
		if _, err := fs.Stat(root, r.running); err == nil {
			found = append(found, Remover{Name: r.name, Setting: fmt.Sprintf(r.setting, ifname)})
		}
	}
	return found
}

// Explain is one sentence for the log when somebody else removed an address.
func Explain(found []Remover) string {
	if len(found) == 0 {
		return "no program known to remove foreign addresses runs here: look for an administrator or a script"
	}
	var parts []string
	for _, r := range found {
		parts = append(parts, r.Name+" runs here and removes addresses it does not know: "+r.Setting)
	}
	return strings.Join(parts, "; ")
}
