package fence

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// vmTimeout bounds the whole test; without hardware virtualisation a kernel boots in about 15 s.
const vmTimeout = 4 * time.Minute

// TestWatchdogVM lets a real kernel with an emulated i6300esb watchdog prove what the fake cannot: fed it lives, disarmed
// it lives, closed without disarming it is reset.
//
// The kernel is taken from HAD_TEST_KERNEL and its modules from HAD_TEST_MODULES (a folder of lib/modules/VERSION), or
// from where a package put them. The image linux-image-amd64 of Debian has the module; the cloud images have not.
func TestWatchdogVM(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	image, modules := guestKernel()
	if err != nil || image == "" || runtime.GOARCH != "amd64" {
		t.Skip("needs qemu-system-x86 and a kernel image with i6300esb.ko")
	}
	dir := t.TempDir()
	guest := filepath.Join(dir, "guest")
	build := exec.Command("go", "build", "-o", guest, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	initrd := filepath.Join(dir, "initrd")
	writeInitramfs(t, initrd, guest, modules)

	ctx, cancel := context.WithTimeout(t.Context(), vmTimeout)
	defer cancel()
	socket := filepath.Join(dir, "qmp")
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot",
		"-device", "i6300esb", "-action", "watchdog=reset", "-kernel", image, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1",
		"-serial", "stdio", "-qmp", "unix:"+socket+",server=on,wait=off")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	events := make(chan []string, 1)
	go func() { events <- qmpEvents(ctx, socket) }()
	console := readConsole(stdout)
	werr := cmd.Wait()
	took := time.Since(start)
	if werr != nil {
		t.Fatalf("qemu: %v\n%s", werr, &stderr)
	}
	judgeGuest(t, console, <-events)
	t.Logf("virtual machine ran for %v", took.Round(100*time.Millisecond))
}

// judgeGuest reads what the guest said and what the machine did to it.
func judgeGuest(t *testing.T, console guestConsole, events []string) {
	t.Helper()
	for _, want := range []string{"booted", "armed", "fed for 6s", "disarmed and alive for 6s", "closed without disarming"} {
		if !slices.ContainsFunc(console.lines, func(l string) bool { return strings.Contains(l, want) }) {
			t.Fatalf("the guest never said %q:\n%s", want, console.all.String())
		}
	}
	if !slices.Contains(events, "WATCHDOG") || !slices.Contains(events, "RESET") && !slices.Contains(events, "SHUTDOWN") {
		t.Errorf("events of the machine: %q", events)
	}
	var closed, last float64
	for _, l := range console.lines {
		at, err := strconv.ParseFloat(strings.Fields(l)[1], 64)
		if err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		last = at
		switch {
		case strings.Contains(l, "closed without"):
			closed = at
		case !strings.HasSuffix(l, "alive"):
			t.Log(l)
		}
	}
	// The timeout is 2 s; the i6300esb counts it in two stages.
	if lived := last - closed; lived < 1 || lived > 5 {
		t.Errorf("the guest lived %.2f s after the last feed", lived)
	} else {
		t.Logf("reset %.2f s after the last feed, timeout 2 s", lived)
	}
}

// guestKernel finds an image and the modules of the same version; "" when there is none.
func guestKernel() (image string, modules []string) {
	find := func(image, root string) []string {
		var all []string
		for _, name := range []string{"watchdog", "i6300esb"} { // the order in which they load
			found, _ := filepath.Glob(filepath.Join(root, "kernel/drivers/watchdog", name+".ko*"))
			all = append(all, found...)
		}
		if _, err := os.Stat(image); err != nil || !slices.ContainsFunc(all, func(f string) bool { return strings.Contains(f, "i6300esb") }) {
			return nil
		}
		return all
	}
	if image := os.Getenv("HAD_TEST_KERNEL"); image != "" {
		if m := find(image, os.Getenv("HAD_TEST_MODULES")); m != nil {
			return image, m
		}
		return "", nil
	}
	images, _ := filepath.Glob("/boot/vmlinuz-*")
	for _, image := range images {
		version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		if m := find(image, "/lib/modules/"+version); m != nil {
			return image, m
		}
	}
	return "", nil
}

// writeInitramfs packs the guest as /init and the modules, in the "newc" format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
func writeInitramfs(t *testing.T, path, init string, modules []string) {
	t.Helper()
	var b bytes.Buffer
	inode := 0
	add := func(name string, mode int, data []byte) {
		inode++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	read := func(file string) []byte {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	add("init", 0o100755, read(init))
	add("modules", 0o040755, nil)
	for i, m := range modules {
		add(fmt.Sprintf("modules/%d-%s", i, filepath.Base(m)), 0o100644, read(m))
	}
	add("TRAILER!!!", 0, nil)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// guestConsole is what came over the serial line.
type guestConsole struct {
	lines []string // of the guest program
	all   strings.Builder
}

func readConsole(r interface{ Read([]byte) (int, error) }) (c guestConsole) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		c.all.WriteString(lines.Text() + "\n")
		if _, text, ok := strings.Cut(lines.Text(), "GUEST "); ok && strings.Contains(text, " ") {
			c.lines = append(c.lines, "GUEST "+strings.TrimSpace(text))
		}
	}
	return c
}

// qmpEvents collects the names of the machine's events until it ends (QEMU Machine Protocol).
func qmpEvents(ctx context.Context, socket string) (events []string) {
	var conn net.Conn
	for {
		var err error
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return nil
		}
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(`{"execute":"qmp_capabilities"}` + "\n"))
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var message struct {
			Event string `json:"event"`
		}
		if json.Unmarshal(lines.Bytes(), &message) == nil && message.Event != "" {
			events = append(events, message.Event)
		}
	}
	return events
}
