package fence

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
)

const (
	mask = "***"

	// maxOutput is how much of each of an agent's streams counts, in bytes; the rest is read and dropped. An agent in
	// verbose mode copies whole web pages.
	maxOutput = 256 << 10
	// maxEvidence is how much of it is kept for people, in characters.
	maxEvidence = 300
)

// secretName matches the parameters of the fence-agents package whose values open doors.
var secretName = regexp.MustCompile(`(?i)pass(w(or)?d|phrase)|secret|token|api_?key|access_key|community|hexadecimal_kg|cookie|credential|^key_value$`)

// IsSecret says whether the value of a parameter must not be shown: a password, token or key. Names of files and of
// scripts that print a password are shown, because a fault in them cannot be found otherwise.
func IsSecret(name string) bool {
	return secretName.MatchString(name) && !strings.HasSuffix(name, "_script") && !strings.HasSuffix(name, "_file") && !strings.HasSuffix(name, "_path")
}

// authorization matches what agents in verbose mode show of an HTTP request.
var authorization = regexp.MustCompile(`(?i)((?:authorization|cookie|x-auth-token|x-[a-z-]*token)["']?\s*[:=]\s*["']?)[^"'\r\n]+`)

// masker removes secrets from texts. The zero value removes only HTTP authorizations.
type masker struct {
	replace *strings.Replacer
	longest int // bytes of the longest form of a secret
}

// newMasker knows every form in which agents were seen to repeat a secret: as it is, quoted, escaped, encoded.
func newMasker(p Params) masker {
	var forms []string
	for name, value := range p {
		if value == "" || !IsSecret(name) {
			continue
		}
		quoted, _ := json.Marshal(value) // a string always encodes
		forms = append(forms, value, url.QueryEscape(value), url.PathEscape(value), html.EscapeString(value), string(quoted[1:len(quoted)-1]),
			base64.StdEncoding.EncodeToString([]byte(value)), base64.URLEncoding.EncodeToString([]byte(value)),
			strings.ReplaceAll(value, "'", `'"'"'`), strings.ReplaceAll(value, "'", `\'`), strings.ReplaceAll(value, `\`, `\\`))
		for _, user := range []string{p["username"], p["login"]} {
			forms = append(forms, base64.StdEncoding.EncodeToString([]byte(user+":"+value))) // RFC 7617
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) }) // the replacer takes the first that fits
	var pairs []string
	for _, f := range forms {
		pairs = append(pairs, f, mask)
	}
	m := masker{}
	if len(forms) > 0 {
		m.replace, m.longest = strings.NewReplacer(pairs...), len(forms[0])
	}
	return m
}

func (m masker) clean(s string) string {
	if m.replace != nil {
		s = m.replace.Replace(s)
	}
	return authorization.ReplaceAllString(s, "${1}"+mask)
}

// evidence is the end of what the agent said, on one line, without secrets.
func (m masker) evidence(outputs ...*capture) string {
	var words []string
	for _, o := range outputs {
		text, cut := o.text()
		if cut && m.longest > 0 {
			text = text[:max(0, len(text)-m.longest)] // the cut may go through a secret, whose half would not be found
		}
		words = append(words, strings.Fields(m.clean(text))...)
	}
	line := []rune(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.Join(words, " ")))
	if len(line) > maxEvidence {
		return "..." + string(line[len(line)-maxEvidence+3:])
	}
	return string(line)
}

// capture keeps the first maxOutput bytes and accepts the rest, so that a chatty agent is not blocked by a full pipe. It
// is locked because exec's copying goroutine may still write when WaitDelay has passed.
type capture struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), maxOutput-len(c.buf))
	c.buf = append(c.buf, p[:n]...)
	c.cut = c.cut || n < len(p)
	return len(p), nil
}

func (c *capture) text() (text string, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.buf), c.cut
}
