package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"hacluster/config"
	"hacluster/resources"
)

// unitTemplate is the systemd unit of the agent. What it may do is what it needs: addresses and packets (NET_ADMIN,
// NET_RAW), ending services (KILL), locking the dead man's memory and keeping it from the OOM killer (IPC_LOCK, SYS_RESOURCE), running processes as other users (SETUID, SETGID, CHOWN, DAC_OVERRIDE, FOWNER) that
// may bind low ports (NET_BIND_SERVICE). KillMode=process: process resources outlive a restart of the agent.
const unitTemplate = `# Written by "had install"; change it with "systemctl edit had", not here.
[Unit]
Description=had, agent of the failover cluster
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target dbus.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=@BIN@ run --config @CONFIG@
ExecStopPost=@BIN@ release --unless-restarting
Restart=always
RestartSec=100ms
RestartPreventExitStatus=78
WatchdogSec=30
TimeoutStopSec=60
KillMode=process
Delegate=yes
OOMScoreAdjust=-1000
Nice=-15
CPUWeight=1000
LimitMEMLOCK=infinity
UMask=0027
RuntimeDirectory=had
RuntimeDirectoryPreserve=yes
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_KILL CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_IPC_LOCK CAP_SYS_NICE CAP_SYS_RESOURCE
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectHostname=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
`

const unitDir = "/etc/systemd/system"

// installVerb is `had install`.
type installVerb struct {
	config string
	root   string
	now    bool
}

func rootFlag(dst *string) cli.Flag {
	return &cli.StringFlag{Name: "root", Value: "/", Usage: "write below `DIR` and tell systemd nothing, for images", Destination: dst}
}

func (v *installVerb) command() *cli.Command {
	return &cli.Command{Name: "install", Usage: "write the systemd unit of the agent, and enable it",
		Flags: []cli.Flag{configFlag(&v.config), rootFlag(&v.root), &cli.BoolFlag{Name: "now", Usage: "start it too", Destination: &v.now}},
		Action: func(c *cli.Context) error {
			if v.root == "/" {
				if _, err := config.LoadNode(v.config); err != nil {
					return configError{fmt.Errorf("%w\n  what to do: run hactl init or hactl join first, they write it", err)}
				}
			}
			bin, err := os.Executable()
			if err != nil {
				return err
			}
			unit := strings.NewReplacer("@BIN@", bin, "@CONFIG@", v.config).Replace(unitTemplate)
			path := filepath.Join(v.root, unitDir, "had.service")
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, "wrote", path)
			if v.root != "/" {
				return nil
			}
			if err := enableUnit(c.Context, v.now); err != nil {
				return err
			}
			if v.now {
				fmt.Fprintln(c.App.Writer, "had is enabled and started; next: hactl status")
			} else {
				fmt.Fprintln(c.App.Writer, "had is enabled; next: systemctl start had")
			}
			return nil
		}}
}

// uninstallVerb is `had uninstall`. Configuration and data stay: they are the node's identity.
type uninstallVerb struct {
	root string
}

func (v *uninstallVerb) command() *cli.Command {
	return &cli.Command{Name: "uninstall", Usage: "stop and disable the agent, and remove its unit; configuration and data stay",
		Flags: []cli.Flag{rootFlag(&v.root)},
		Action: func(c *cli.Context) error {
			path := filepath.Join(v.root, unitDir, "had.service")
			if v.root == "/" {
				if err := disableUnit(c.Context); err != nil {
					return err
				}
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			fmt.Fprintln(c.App.Writer, "removed", path)
			if v.root != "/" {
				return nil
			}
			released := release(c.App.Writer)
			units, err := resources.UnmanageAll()
			for _, u := range units {
				fmt.Fprintf(c.App.Writer, "%s is restarted by systemd again, as its own Restart= says\n", u)
			}
			return errors.Join(released, err, reloadUnits(c.Context))
		}}
}
