package fence

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hacluster/internal/boottime"
)

func needBoot(t testing.TB) string {
	t.Helper()
	if boottime.ID() == "" {
		t.Skip("needs an id of this boot")
	}
	return boottime.ID()
}

// What a process leaves its successor, and what of it counts.
func TestBarsOutliveTheProcess(t *testing.T) {
	boot := needBoot(t)
	now := boottime.Now()
	long, short := now.Add(time.Second), now.Add(time.Millisecond)
	written := map[string]time.Time{"n1": long, "n2": short}
	file := filepath.Join(t.TempDir(), "run", "bars")
	if b, known, err := OpenBars(file, now); !b.Lost || len(known) > 0 || err != nil {
		t.Errorf("where there is no file: lost %v, %v, %v", b.Lost, known, err)
	} else if _, err := os.Stat(file); err == nil {
		t.Error("it is there at once: a process that comes next would take it for what the one before left")
	} else if err := b.Keep(written); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(text)
	for name, c := range map[string]struct {
		text string
		now  time.Time
		want map[string]time.Time
		lost bool
	}{
		"the next process":                     {whole, now, written, false},
		"one that is over is dropped":          {whole, short, map[string]time.Time{"n1": long}, false},
		"all are over":                         {whole, long, map[string]time.Time{}, false},
		"nobody was barred":                    {boot + "\nend\n", now, map[string]time.Time{}, false},
		"from before a reboot":                 {"00000000-0000-0000-0000-000000000000" + whole[len(boot):], now, map[string]time.Time{}, false},
		"without its end":                      {strings.TrimSuffix(whole, "end\n"), now, nil, true},
		"cut off in its end":                   {strings.TrimSuffix(whole, "d\n"), now, nil, true},
		"without the boot":                     {whole[len(boot):], now, nil, true},
		"empty":                                {"", now, nil, true},
		"zeros":                                {strings.Repeat("\x00", len(whole)), now, nil, true},
		"a line of something else":             {boot + "\nhello\nend\n", now, nil, true},
		"a line that goes on":                  {boot + "\nn1 1000 2000\nend\n", now, nil, true},
		"a node twice":                         {boot + "\nn1 1000\nn1 2000\nend\n", now, nil, true},
		"an instant that is none":              {boot + "\nn1 -5\nend\n", now, nil, true},
		"longer than any file that is written": {boot + "\nn" + strings.Repeat("1", maxBars) + " 1000\nend\n", now, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			b, got, err := OpenBars(file, c.now)
			if err != nil || b.Lost != c.lost || !maps.EqualFunc(got, c.want, time.Time.Equal) {
				t.Errorf("lost %v, %v, %v; want lost %v, %v", b.Lost, got, err, c.lost, c.want)
			}
			// It is the next one's turn: what was lost is lost to it, too; what was not, is found again.
			b, again, err := OpenBars(file, c.now)
			if err != nil || b.Lost != c.lost || !maps.EqualFunc(again, c.want, time.Time.Equal) {
				t.Errorf("and the one after it: lost %v, %v, %v", b.Lost, again, err)
			}
		})
	}
}

// A file that cannot be read says nothing, and that is told.
func TestBarsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir() // a directory in place of the file
	if b, known, err := OpenBars(dir, boottime.Now()); !b.Lost || len(known) > 0 || err == nil {
		t.Errorf("lost %v, %v, %v", b.Lost, known, err)
	} else if b.Keep(nil) == nil {
		t.Error("written to where nothing can be")
	}
}

// Whenever a process is killed while it writes, it leaves the former file or the next: whoever looks meanwhile sees one of the two.
func TestBarsAreReplacedAsAWhole(t *testing.T) {
	boot := needBoot(t)
	if runtime.GOOS == "windows" {
		t.Skip("needs a system that replaces a file which somebody reads")
	}
	file := filepath.Join(t.TempDir(), "bars")
	b, _, err := OpenBars(file, boottime.Now())
	if err != nil {
		t.Fatal(err)
	}
	one, many := map[string]time.Time{"n1": boottime.Now()}, map[string]time.Time{}
	for i := range 2000 {
		many["n"+strings.Repeat("x", i%50)+string(rune('a'+i/50))] = boottime.Now()
	}
	if err := b.Keep(one); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			for _, next := range []map[string]time.Time{many, one} {
				if err := b.Keep(next); err != nil {
					done <- err
					return
				}
			}
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
		}
	}()
	seen := map[int]int{}
	for begun := time.Now(); len(seen) < 2 && time.Since(begun) < 20*time.Second || seen[len(one)]+seen[len(many)] < 500; {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := ParseBars(string(text), boot)
		if seen[len(got)]++; !ok || len(got) != len(one) && len(got) != len(many) {
			t.Errorf("a kill would have left %d bytes: %v, %d nodes", len(text), ok, len(got))
			break
		}
	}
	close(stop)
	if err := <-done; err != nil || len(seen) < 2 && !t.Failed() {
		t.Errorf("%v; seen: %v", err, seen)
	}
	// What a process left half written beside it is no part of it.
	if err := os.WriteFile(file+".new", []byte(boot+"\nn7 "), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Keep(one); err != nil {
		t.Fatal(err)
	}
	if b, known, err := OpenBars(file, boottime.Now().Add(-time.Minute)); b.Lost || len(known) != len(one) || err != nil {
		t.Errorf("lost %v, %v, %v", b.Lost, known, err)
	}
}

// Foreign bytes bar nobody by accident, and what is read is what a process would have written.
func FuzzParseBars(f *testing.F) {
	const boot = "5b6a0c4e"
	for _, seed := range []string{"", "end", boot + "\nend\n", boot + "\nn1 1000\nend\n", "another\nn1 1000\nend", boot + "\nn1 1000\nn1 2000\nend\n", boot + "\nn1 99999999999999999999\nend\n",
		boot + "\n* 5\nend\n", "\n\nend\n", boot + "\nn1\t1\nend"} {
		f.Add(seed)
	}
	file := filepath.Join(f.TempDir(), "bars")
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := ParseBars(text, boot)
		if !ok {
			if len(got) > 0 {
				t.Errorf("%q: no such file, and yet %v", text, got)
			}
			return
		}
		if !strings.HasPrefix(text, boot+"\n") && len(got) > 0 {
			t.Errorf("%q: of another boot, and yet %v", text, got)
		}
		if err := (Bars{path: file, boot: boot}).Keep(got); err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if same, ok := ParseBars(string(again), boot); !ok || !maps.EqualFunc(got, same, time.Time.Equal) {
			t.Errorf("%q: read %v, and after it was written %v", text, got, same)
		}
	})
}
