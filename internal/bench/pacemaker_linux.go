package bench

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"hacluster/internal/lab"
)

// pacemaker runs with corosync on all three nodes, the third a voter only. The service is a clone that runs on both members, the
// address lives with it. There is no fencing: it would take away the time of a real device as well.
type pacemaker struct {
	station
	totem    string // more lines of corosync.conf
	monitor  string // interval and timeout of the service's monitor operation
	timeout  string
	patience time.Duration
	repeats  int // of ethmonitor, before it believes that there is no link
	nodes    map[string]*lab.Container
}

// Default is what the packages and the agents' own recommendations give. The other has a token of 300 ms and looks at the service
// each second, with a timeout of a second.
func newPacemaker(name string) func(Options) System {
	return func(o Options) System {
		p := &pacemaker{station: station{name: name, o: o}, monitor: "10s", timeout: "20s", repeats: 5, patience: 15 * time.Second}
		if name == PacemakerFast {
			p.totem, p.monitor, p.timeout, p.repeats, p.patience = "  token: 300\n", "1s", "1s", 1, 6*time.Second
		}
		return p
	}
}

// pacemakerDaemons are the programs of both packages.
var pacemakerDaemons = []string{"pacemakerd", "corosync", "pacemaker-based", "pacemaker-fenced", "pacemaker-execd", "pacemaker-attrd", "pacemaker-schedulerd", "pacemaker-controld"}

func (p *pacemaker) Can(scenario string) bool { return scenario != LowerPriority }

func (p *pacemaker) Patience() time.Duration { return p.patience }

// corosyncConf is the same on all nodes.
func (p *pacemaker) corosyncConf(node string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "totem {\n  version: 2\n  cluster_name: bench\n  transport: knet\n  crypto_cipher: none\n  crypto_hash: none\n%s}\n", p.totem)
	b.WriteString("quorum {\n  provider: corosync_votequorum\n}\nnodelist {\n")
	for i, name := range Nodes {
		fmt.Fprintf(&b, "  node {\n    ring0_addr: %s\n    name: %s\n    nodeid: %d\n  }\n", p.a.Lab.Node(name).Addr(max(p.o.Networks, 1)-1), name, i+1)
	}
	fmt.Fprintf(&b, "}\nlogging {\n  to_stderr: no\n  to_syslog: no\n  to_logfile: yes\n  logfile: %s\n  timestamp: hires\n}\n", p.a.Lab.Node(node).Path("log", "corosync.log"))
	return b.String()
}

// boot is process 1 of a node: it hides what belongs to the machine, starts the daemons, and stays when they are gone.
const boot = `#!/bin/sh
set -e
etc=$1 log=$2 node=$3
hostname "$node"
for d in /run /dev/shm /var/log /var/lib/corosync /var/lib/pacemaker; do mount -t tmpfs tmpfs $d; done
mkdir -p /run/lock /run/resource-agents /run/crm /var/log/corosync /var/log/pacemaker /var/lib/pacemaker/blackbox /var/lib/pacemaker/cib \
  /var/lib/pacemaker/cores /var/lib/pacemaker/pengine
chown -R hacluster:haclient /run/crm /var/lib/pacemaker /var/log/pacemaker
chmod 750 /run/crm /var/lib/pacemaker /var/lib/pacemaker/*
mount --bind "$etc/corosync.conf" /etc/corosync/corosync.conf
mkdir /run/ocf
mount --bind /usr/lib/ocf/resource.d /run/ocf
mount -t tmpfs tmpfs /usr/lib/ocf/resource.d
ln -s /run/ocf/heartbeat /usr/lib/ocf/resource.d/heartbeat
mkdir /usr/lib/ocf/resource.d/bench
cp "$etc/agent" /usr/lib/ocf/resource.d/bench/service
export PCMK_logfile=$log/pacemaker.log PCMK_logfacility=none
corosync -f &
until corosync-cfgtool -s >/dev/null 2>&1; do sleep 0.1; done
pacemakerd -f &
set +e
while :; do sleep 1000; done
`

// agent is the resource agent of the service. Its monitor asks the service, as an agent of a web server does.
func (p *pacemaker) agent(node string) string {
	return fmt.Sprintf(`#!/bin/sh
service=%s
running() { pid=$(cat /run/service.pid 2>/dev/null) && kill -0 "$pid" 2>/dev/null; }
case $1 in
start)
  running && exit 0
  "$service" -name %s -listen :%d >/run/service.log 2>&1 &
  echo $! >/run/service.pid
  until curl -sf -o /dev/null -m 1 http://127.0.0.1:%[3]d/; do sleep 0.05; done ;;
stop)
  running || exit 0
  kill -9 "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
  rm -f /run/service.pid ;;
monitor)
  running || exit 7
  curl -sf -o /dev/null http://127.0.0.1:%[3]d/ || exit 1 ;;
meta-data)
  cat <<END
<?xml version="1.0"?>
<resource-agent name="service" version="1"><version>1.0</version><longdesc lang="en">test</longdesc><shortdesc lang="en">test</shortdesc>
<parameters/><actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/><action name="monitor" timeout="%[4]s" interval="%[5]s"/>
<action name="meta-data" timeout="5s"/></actions></resource-agent>
END
  ;;
*) exit 3 ;;
esac
exit 0
`, p.program(node), node, servicePort, p.timeout, p.monitor)
}

func options(stopped bool) string {
	return fmt.Sprintf(`<crm_config><cluster_property_set id="options"><nvpair id="o1" name="stonith-enabled" value="false"/><nvpair id="o2" name="stop-all-resources" value="%t"/></cluster_property_set></crm_config>`, stopped)
}

// link has the address only where its interface has a link, in the notation of the CIB; nothing where the interface is also the way
// to the others. What it is not told are the agent's own defaults.
func (p *pacemaker) link() (resources, constraint string) {
	if p.o.Networks < 2 {
		return "", ""
	}
	return fmt.Sprintf(`<clone id="link-clone"><primitive id="link" class="ocf" provider="heartbeat" type="ethmonitor"><instance_attributes id="link-a">`+
			`<nvpair id="l1" name="interface" value="eth0"/><nvpair id="l2" name="link_status_only" value="true"/><nvpair id="l3" name="repeat_count" value="%d"/></instance_attributes>`+
			`<operations><op id="l4" name="monitor" interval="%s" timeout="60s"/><op id="l5" name="start" interval="0" timeout="60s"/><op id="l6" name="stop" interval="0" timeout="20s"/></operations></primitive></clone>`,
			p.repeats, p.monitor),
		`<rsc_location id="linked" rsc="vip"><rule id="linked-r" score="-INFINITY" boolean-op="or"><expression id="linked-1" attribute="ethmonitor-eth0" operation="not_defined"/>` +
			`<expression id="linked-2" attribute="ethmonitor-eth0" operation="ne" value="1"/></rule></rsc_location>`
}

// configuration is given to the cluster once, section by section.
func (p *pacemaker) configuration() [][2]string {
	var away strings.Builder
	for _, r := range []string{"vip", "service-clone"} {
		fmt.Fprintf(&away, `<rsc_location id="%s-away" rsc="%s" node="witness" score="-INFINITY"/>`, r, r)
	}
	more, linked := p.link()
	return [][2]string{
		{"crm_config", options(true)}, // nothing starts before the constraints are there
		{"resources", fmt.Sprintf(`<resources><primitive id="vip" class="ocf" provider="heartbeat" type="IPaddr2"><instance_attributes id="vip-a">`+
			`<nvpair id="v1" name="ip" value="%s"/><nvpair id="v2" name="cidr_netmask" value="%d"/><nvpair id="v3" name="nic" value="eth0"/></instance_attributes>`+
			`<meta_attributes id="vip-m"><nvpair id="v7" name="resource-stickiness" value="100"/></meta_attributes>`+
			`<operations><op id="v4" name="monitor" interval="%[3]s" timeout="20s"/><op id="v5" name="start" interval="0" timeout="20s"/><op id="v6" name="stop" interval="0" timeout="20s"/></operations></primitive>`+
			`<clone id="service-clone"><primitive id="service" class="ocf" provider="bench" type="service"><operations>`+
			`<op id="s1" name="monitor" interval="%[3]s" timeout="%[4]s"/><op id="s2" name="start" interval="0" timeout="20s"/><op id="s3" name="stop" interval="0" timeout="20s"/></operations></primitive></clone>%[5]s</resources>`,
			p.a.VIP.Addr(), p.a.VIP.Bits(), p.monitor, p.timeout, more)},
		{"constraints", `<constraints>` + away.String() + linked + `<rsc_colocation id="with" rsc="vip" with-rsc="service-clone" score="INFINITY"/>` +
			`<rsc_order id="after" first="service-clone" then="vip"/></constraints>`},
		{"crm_config", options(false)},
	}
}

func (p *pacemaker) Form(ctx context.Context) (*Arena, error) {
	p.nodes = map[string]*lab.Container{}
	if err := p.lay(ctx); err != nil {
		return nil, err
	}
	if err := p.installService(); err != nil {
		return nil, err
	}
	for _, node := range Nodes {
		if err := p.start(ctx, node); err != nil {
			return nil, err
		}
	}
	// The first command that the cluster takes is the proof that it is there.
	for _, section := range p.configuration() {
		last := ""
		if err := poll(ctx, 2*readyLimit, func() bool {
			out, err := p.command(ctx, Nodes[0], "cibadmin", "--replace", "--scope", section[0], "--xml-text", section[1])
			last = out
			return err == nil
		}); err != nil {
			return nil, fmt.Errorf("configuring %s: %s: %s: %w%s", p.name, section[0], last, err, p.tails())
		}
	}
	if err := p.Ready(ctx); err != nil {
		return nil, err
	}
	return p.a, p.a.instruments()
}

// start boots a node.
func (p *pacemaker) start(ctx context.Context, node string) (err error) {
	n := p.a.Lab.Node(node)
	for name, text := range map[string]string{"corosync.conf": p.corosyncConf(node), "agent": p.agent(node), "boot": boot} {
		if err := os.WriteFile(n.Path("etc", name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	p.nodes[node], err = n.StartContainer(ctx, lab.ProcOptions{Name: "boot", Args: []string{"sh", n.Path("etc", "boot"), n.Path("etc"), n.Path("log"), node}})
	return err
}

// command runs a program in a node and returns what it said.
func (p *pacemaker) command(ctx context.Context, node string, args ...string) (string, error) {
	c := p.nodes[node]
	if c == nil {
		return "", errors.New("no container on " + node)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := c.Command(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s on %s: %w: %s", strings.Join(args, " "), node, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// monitored is what is needed of the output of crm_mon.
type monitored struct {
	Nodes []struct {
		Name    string `xml:"name,attr"`
		Online  bool   `xml:"online,attr"`
		Pending bool   `xml:"pending,attr"`
	} `xml:"nodes>node"`
	Resources []resource `xml:"resources>resource"`
	Clones    []struct {
		Resources []resource `xml:"resource"`
	} `xml:"resources>clone"`
}

type resource struct {
	ID     string `xml:"id,attr"`
	Role   string `xml:"role,attr"`
	Failed bool   `xml:"failed,attr"`
	Nodes  []struct {
		Name string `xml:"name,attr"`
	} `xml:"node"`
}

// whole says what is missing in a cluster, "" when nothing is.
func (m monitored) whole() string {
	online, serving, owners := 0, 0, 0
	for _, n := range m.Nodes {
		if n.Online && !n.Pending {
			online++
		}
	}
	for _, c := range m.Clones {
		for _, r := range c.Resources {
			if r.ID == "service" && r.Role == "Started" && !r.Failed {
				serving += len(r.Nodes)
			}
		}
	}
	for _, r := range m.Resources {
		if r.ID == "vip" && r.Role == "Started" && !r.Failed {
			owners += len(r.Nodes)
		}
	}
	if online == len(Nodes) && serving == len(members) && owners == 1 {
		return ""
	}
	return fmt.Sprintf("%d nodes online, the service runs on %d, %d have the address", online, serving, owners)
}

// Ready waits until every node, asked by itself, sees the whole cluster.
func (p *pacemaker) Ready(ctx context.Context) error {
	why := ""
	if err := poll(ctx, 3*readyLimit, func() bool {
		for _, node := range Nodes {
			out, err := p.command(ctx, node, "crm_mon", "--output-as=xml")
			if err != nil {
				why = err.Error()
				return false
			}
			m := monitored{}
			if err := xml.Unmarshal([]byte(out), &m); err != nil {
				why = err.Error()
				return false
			}
			if w := m.whole(); w != "" {
				why = node + " sees " + w
				return false
			}
		}
		_, err := p.Owner(ctx)
		return err == nil
	}); err != nil {
		return fmt.Errorf("%s is not ready: %s: %w%s", p.name, why, err, p.tails())
	}
	return nil
}

func (p *pacemaker) Fault(ctx context.Context, scenario, owner string) error {
	n := p.a.Lab.Node(owner)
	daemons := func() []int { return p.running(owner, pacemakerDaemons...) }
	switch scenario {
	case PlannedMove:
		_, err := p.command(ctx, "witness", "crm_resource", "--move", "--resource", "vip", "--node", other(owner))
		return err
	case DaemonsKilled: // frozen first, so that none starts another
		pids := daemons()
		return errors.Join(p.signalAll(owner, pids, (*lab.Node).Freeze), p.signalAll(owner, pids, (*lab.Node).Kill9))
	case DaemonsFrozen:
		return p.signalAll(owner, daemons(), (*lab.Node).Freeze)
	case ServiceKilled, ServiceFrozen:
		pid, err := p.service(owner)
		if err != nil {
			return err
		}
		if scenario == ServiceKilled {
			return n.Kill9(pid)
		}
		return n.Freeze(pid)
	}
	known, err := p.a.network(scenario, owner)
	if !known {
		return errors.New("no such fault: " + scenario)
	}
	return err
}

func (p *pacemaker) Mend(ctx context.Context, scenario, owner string) error {
	n := p.a.Lab.Node(owner)
	switch scenario {
	case PlannedMove:
		_, err := p.command(ctx, "witness", "crm_resource", "--clear", "--resource", "vip")
		return err
	case ServiceKilled, ServiceFrozen: // it has started the service again; what it remembers of the failure goes
		_, err := p.command(ctx, "witness", "crm_resource", "--cleanup")
		return err
	case DaemonsFrozen:
		return p.signalAll(owner, p.running(owner, pacemakerDaemons...), (*lab.Node).Thaw)
	case DaemonsKilled: // what is left of them must go, as at a reboot
		if err := n.PowerCut(); err != nil {
			return err
		}
		fallthrough
	case PowerCut:
		return errors.Join(n.PowerOn(), p.start(ctx, owner))
	}
	_, err := p.a.mendNetwork(scenario, owner)
	return err
}
