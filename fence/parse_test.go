package fence

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMetadataThatIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "no XML document",
		"hello":                     "no XML document",
		"<html><body/></html>":      "expected element type <resource-agent>",
		"<resource-agent name='x'>": "unexpected EOF",
		"<resource-agent/>":         "lists no actions",
		"<resource-agent><actions><action/></actions></resource-agent>":                                                                    "an action without a name",
		"<resource-agent><parameters><parameter name='a=b'/></parameters><actions><action name='off'/></actions></resource-agent>":         `a parameter "a=b"`,
		"<resource-agent><parameters><parameter name='a&#10;b'/></parameters><actions><action name='off'/></actions></resource-agent>":     "cannot be a name",
		"<resource-agent>" + strings.Repeat("x", maxMetadata) + "</resource-agent>":                                                        "longer than",
		"<resource-agent><parameters><parameter name=''/></parameters><actions><action name='off'/></actions></resource-agent>":            "cannot be a name",
		"warning: pipes is deprecated\n<resource-agent><parameters/><actions><action name='off'/></actions></resource-agent> and trailing": "",
	} {
		_, err := ParseMetadata([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

func TestStatusIsBelievedOnlyWithoutContradiction(t *testing.T) {
	for _, c := range []struct {
		exit           int
		stdout, stderr string
		want           State
	}{
		{0, "", "", StateOn},
		{0, "Status: ON\n", "DEBUG: chatter", StateOn},
		{2, "", "", StateOff},
		{2, "Status: OFF\n", "", StateOff},
		{2, "noise\n  status: off  \n", "DEBUG: chatter", StateOff},
		{2, "", "python3: can't open file '/usr/sbin/fence_x': No such file or directory", StateUnknown},
		{2, "", "usage: fence_x [-h]\nfence_x: error: unrecognized arguments", StateUnknown},
		{2, "Status: ON", "", StateUnknown},
		{0, "Status: OFF", "", StateUnknown},
		{2, "Status: OFF\nStatus: ON\n", "", StateUnknown},
		{1, "Status: OFF", "", StateUnknown},
		{-1, "", "", StateUnknown},
		{127, "", "", StateUnknown},
	} {
		got, err := judgeStatus(c.exit, c.stdout, c.stderr)
		if got != c.want || (err == nil) != (c.want != StateUnknown) {
			t.Errorf("exit %d, %q, %q: %s, %v; want %s", c.exit, c.stdout, c.stderr, got, err, c.want)
		}
	}
}

func TestValuesThatWouldBeginAnotherOption(t *testing.T) {
	for _, value := range []string{"x\naction=on", "x\raction=on", "x\x00"} {
		if err := (Parameter{Name: "password"}).check(value); err == nil || strings.Contains(err.Error(), "action") {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestParamsPrintMasked(t *testing.T) {
	p := Params{"password": "hunter2", "ip": "10.0.0.1", "password_script": "/bin/x", "snmp_priv_passwd": "hunter3", "api_token": "hunter4", "tlskey": "/etc/key"}
	want := "api_token=*** ip=10.0.0.1 password=*** password_script=/bin/x snmp_priv_passwd=*** tlskey=/etc/key"
	if got := p.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if strings.Contains(p.GoString()+p.LogValue().String(), "hunter") {
		t.Error("leaks")
	}
}

// No half of a secret is shown when the output ends in the middle of it.
func TestSecretAtTheCut(t *testing.T) {
	const secret = "correct horse battery staple"
	for cut := 1; cut < len(secret); cut++ {
		var c capture
		_, _ = c.Write([]byte(strings.Repeat(" ", maxOutput-cut) + secret))
		if got := newMasker(Params{"password": secret}).evidence(&c); strings.Contains(got, "corr") {
			t.Fatalf("cut after %d bytes shows %q", cut, got)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	fake, err := os.ReadFile(filepath.Join("testdata", "agents", "fence_fake"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fake)
	f.Add([]byte(`<resource-agent name="x"><parameters><parameter name="a" required="1" obsoletes="b"><content type="select"><option value="1"/></content></parameter></parameters><actions><action name="off" on_target="1"/></actions></resource-agent>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseMetadata(text)
		if err != nil {
			return
		}
		p := Params{"plug": "1"}
		m.target(p, "n1")
		for _, q := range m.Parameters {
			if strings.ContainsAny(q.Name, "=\n\r\x00 ") {
				t.Fatalf("name %q", q.Name)
			}
			p[q.Name] = q.Default
		}
		m.checkParams(p)
		if len(m.Actions) == 0 {
			t.Fatal("no actions")
		}
	})
}

// Off is never read out of an answer that does not end with 2, or that says on.
func FuzzStatus(f *testing.F) {
	f.Add(2, "Status: OFF\n", "")
	f.Add(2, "Status: ON\n", "")
	f.Add(2, "", "error")
	f.Add(0, "status: on", "x")
	f.Fuzz(func(t *testing.T, exit int, stdout, stderr string) {
		state, err := judgeStatus(exit, stdout, stderr)
		if (err != nil) != (state == StateUnknown) {
			t.Fatalf("%s, %v", state, err)
		}
		saysOff := statusLine.MatchString(stdout)
		if state == StateOff && (exit != 2 || !saysOff && strings.TrimSpace(stderr) != "") {
			t.Fatalf("off from exit %d %q %q", exit, stdout, stderr)
		}
	})
}

// Whatever an agent prints, no secret is in the evidence.
func FuzzEvidence(f *testing.F) {
	f.Add("x hunter2hunter2 y", "hunter2")
	f.Add("Authorization: Basic YTpo", "h")
	f.Fuzz(func(t *testing.T, text, secret string) {
		if len(secret) < 4 || strings.Contains(secret, "*") || strings.Contains("Authorization", secret) {
			t.Skip()
		}
		var c capture
		_, _ = c.Write([]byte(text))
		got := newMasker(Params{"password": secret}).evidence(&c)
		if strings.ContainsAny(got, "\n\r\x1b") || len([]rune(got)) > maxEvidence {
			t.Fatalf("evidence %q", got)
		}
		if strings.Fields(secret) != nil && len(strings.Fields(secret)) == 1 && strings.TrimSpace(secret) == secret && strings.Contains(got, secret) && !strings.Contains(mask+"...", secret) {
			t.Fatalf("evidence %q shows %q", got, secret)
		}
	})
}

func TestAuthorizationsAreMasked(t *testing.T) {
	var c capture
	_, _ = c.Write([]byte("> GET /x\r\n> Authorization: Bearer abcdef\r\n> Cookie: PVEAuthCookie=abcdef; x=y\r\nX-Auth-Token: abcdef\r\n< 200\r\n"))
	if got, want := (masker{}).evidence(&c), "> GET /x > Authorization: *** > Cookie: *** X-Auth-Token: *** < 200"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
