package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"hacluster/api"
)

// logSizes is how far each node's logs go now.
func (a *arena) logSizes() map[string]int64 {
	sizes := map[string]int64{}
	for _, n := range a.Lab.Nodes() {
		logs, _ := filepath.Glob(n.Path("log", "*"))
		for _, path := range logs {
			if i, err := os.Stat(path); err == nil {
				sizes[path] = i.Size()
			}
		}
	}
	return sizes
}

// keep writes down all that helps to find out what a round did wrong, and returns the folder. It must be called before the
// cluster is taken down. What cannot be had is left out, and named in the round's notes.
func (n Nemesis) keep(ctx context.Context, a *arena, out Round, marks map[string]int64) string {
	dir := filepath.Join(n.Keep, fmt.Sprintf("seed-%d-round-%d", out.Seed, out.Round))
	errs := []error{os.MkdirAll(dir, 0o755)}
	put := func(name string, v any) {
		b, err := json.MarshalIndent(v, "", "  ")
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	put("round.json", out)
	errs = append(errs, os.WriteFile(filepath.Join(dir, "cluster.toml"), []byte(a.render(out.Plan)), 0o644))
	since := a.Client.Marked()
	if held, err := a.Observer.Report(since); err == nil {
		put("addresses.json", held)
	}
	if answered, err := a.Prober.Report(since); err == nil {
		put("answers.json", answered)
	}
	if run, err := stretches(a.runs, monotonic()-time.Since(since)); err == nil {
		text := ""
		for _, s := range run { // on the wall clock, to be read beside the logs
			at := func(d time.Duration) string { return time.Now().Add(d - monotonic()).Format("15:04:05.000") }
			text += fmt.Sprintf("%s %s %s pid %d\n", at(s.from), at(s.to), s.node, s.pid)
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, "exclusive.txt"), []byte(text), 0o644))
	}
	for _, node := range a.Lab.Nodes() {
		if st, err := a.ask(ctx, node.Name); err == nil {
			put("status-"+node.Name+".json", st)
		} else {
			put("status-"+node.Name+".json", err.Error())
		}
		logs, _ := filepath.Glob(node.Path("log", "*"))
		for _, path := range logs {
			errs = append(errs, tail(path, marks[path], filepath.Join(dir, node.Name+"-"+filepath.Base(path))))
		}
		errs = append(errs, a.kernel(ctx, node.Name, dir))
	}
	client := api.NewSocketClient(a.socket("witness"))
	defer client.Close()
	if e, err := client.Events(ctx, 0); err == nil {
		put("events.json", e[max(0, len(e)-100):])
	}
	if err := errors.Join(errs...); err != nil {
		n.Say(fmt.Sprintf("keeping the logs of round %d: %v", out.Round, err))
	}
	return dir
}

// kernel notes what the kernel of a node says: addresses, filters, processes.
func (a *arena) kernel(ctx context.Context, node, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	script := "ip -d addr; nft list ruleset; for p in $(ip netns pids $(basename " + a.Lab.Node(node).NetNS() + ")); do " +
		"echo $p $(grep State /proc/$p/status) $(tr '\\0' ' ' </proc/$p/cmdline); done"
	out, err := a.Lab.Node(node).Command(ctx, "sh", "-c", script).CombinedOutput()
	if err != nil {
		out = append(out, []byte(err.Error())...)
	}
	return os.WriteFile(filepath.Join(dir, node+"-kernel.txt"), out, 0o644)
}

// tail copies a file from an offset on.
func tail(from string, at int64, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return errors.Join(err, out.Close())
}
