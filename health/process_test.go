package health

import (
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	tests := []struct {
		name, text string
		comm       string
		state      byte
		ok         bool
	}{
		{"a plain line", "42 (java) S 1 42", "java", 'S', true},
		{"a name with brackets, spaces and a line end", "42 (a) R (b\n) c) Z 1", "a) R (b\n) c", 'Z', true},
		{"an empty name", "42 () T 1", "", 'T', true},
		{"no state", "42 (java)", "", 0, false},
		{"no name", "42 S 1", "", 0, false},
		{"nothing", "", "", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat([]byte(tt.text))
			if (err == nil) != tt.ok || got.comm != tt.comm || got.state != tt.state {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	for _, s := range []string{"42 (java) S 1", "1 ()) Z", ")(", "", "(", "1 (a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseStat(b); err == nil && !strings.Contains(string(b), "("+st.comm+")") {
			t.Errorf("%q gave the name %q", b, st.comm)
		}
	})
}

func FuzzParsePID(f *testing.F) {
	for _, s := range []string{"1", " 42 \n", "0", "-1", "", "abc", "99999999999999999999", "12\n34"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if pid, err := parsePID(b); err == nil && pid < 1 {
			t.Errorf("%q gave %d, which kill(2) takes for a group", b, pid)
		}
	})
}

func FuzzJudgeScript(f *testing.F) {
	f.Add(0, []byte("OK - all fine | time=1s\nlong text"))
	f.Add(2, []byte("\n\nCRITICAL"))
	f.Add(3, []byte(""))
	f.Add(127, []byte("\xff\x00not found"))
	f.Add(-1, []byte("|"))
	f.Fuzz(func(t *testing.T, code int, out []byte) {
		a := judgeScript(code, out)
		want, ok := map[int]Outcome{0: Pass, 1: Warn, 2: Fail}[code]
		if !ok {
			want = Skip
		}
		if a.outcome != want {
			t.Errorf("exit code %d gave %s, want %s", code, a.outcome, want)
		}
		if text := firstLine(out); strings.ContainsAny(text, "\n|") || len(text) > maxDetail {
			t.Errorf("%q gave %q", out, text)
		}
	})
}

func FuzzIsReply(f *testing.F) {
	payload := []byte("0123456789abcdef")
	reply := echo(false, 1, 1, payload)
	reply[0] = echoReply4
	f.Add(reply)
	f.Add(append([]byte{0x45, 19: 0}, reply...))
	f.Add([]byte{0x4f})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v6 := range []bool{false, true} {
			for _, raw := range []bool{false, true} {
				if isReply(b, v6, raw, 1, payload) && !strings.HasSuffix(string(b), string(payload)) {
					t.Errorf("% x taken for a reply", b)
				}
			}
		}
	})
}
