package fence

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Metadata is what an agent says about itself (resource-agents' ra-api DTD as the fence-agents package uses it).
type Metadata struct {
	Name       string
	Summary    string
	Parameters []Parameter
	Actions    []AgentAction
}

// Parameter is one option of an agent.
type Parameter struct {
	Name       string
	Summary    string
	Type       string // string, integer, second, boolean, select; agents invent others, which are not checked
	Default    string
	HasDefault bool
	Required   bool
	Deprecated bool
	Obsoletes  string   // the deprecated name of the same option
	Options    []string // of a select
}

// AgentAction is one action of an agent.
type AgentAction struct {
	Name     Action
	OnTarget bool // must run on the node it is about, such as unfencing by fence_scsi
}

// maxMetadata bounds what is parsed, in bytes; the longest of fence-agents 4.12 has 11 KB.
const maxMetadata = 200 << 10

// paramName is what can be written as key=value on one line.
var paramName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// xmlMetadata mirrors the document.
type xmlMetadata struct {
	XMLName    xml.Name `xml:"resource-agent"`
	Name       string   `xml:"name,attr"`
	Summary    string   `xml:"shortdesc,attr"`
	Parameters []struct {
		Name       string `xml:"name,attr"`
		Required   string `xml:"required,attr"`
		Deprecated string `xml:"deprecated,attr"`
		Obsoletes  string `xml:"obsoletes,attr"`
		Summary    string `xml:"shortdesc"`
		Content    struct {
			Type    string  `xml:"type,attr"`
			Default *string `xml:"default,attr"`
			Options []struct {
				Value string `xml:"value,attr"`
			} `xml:"option"`
		} `xml:"content"`
	} `xml:"parameters>parameter"`
	Actions []struct {
		Name     string `xml:"name,attr"`
		OnTarget string `xml:"on_target,attr"`
	} `xml:"actions>action"`
}

// ParseMetadata reads the answer to the action metadata. Text before the document, such as a warning of the interpreter,
// is skipped.
func ParseMetadata(text []byte) (Metadata, error) {
	if len(text) > maxMetadata {
		return Metadata{}, fmt.Errorf("metadata is longer than %d bytes", maxMetadata)
	}
	start := bytes.IndexByte(text, '<')
	if start < 0 {
		return Metadata{}, errors.New("metadata is no XML document")
	}
	var x xmlMetadata
	d := xml.NewDecoder(bytes.NewReader(text[start:]))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // names and types are ASCII anyway
	if err := d.Decode(&x); err != nil {
		return Metadata{}, fmt.Errorf("parsing metadata: %w", err)
	}
	m := Metadata{Name: x.Name, Summary: strings.TrimSpace(x.Summary)}
	for _, p := range x.Parameters {
		if !paramName.MatchString(p.Name) {
			return Metadata{}, fmt.Errorf("metadata has a parameter %q, which cannot be a name", p.Name)
		}
		q := Parameter{Name: p.Name, Summary: strings.TrimSpace(p.Summary), Type: p.Content.Type, Required: truth(p.Required),
			Deprecated: truth(p.Deprecated), Obsoletes: p.Obsoletes}
		if p.Content.Default != nil {
			q.Default, q.HasDefault = *p.Content.Default, true
		}
		for _, o := range p.Content.Options {
			q.Options = append(q.Options, o.Value)
		}
		if _, twice := m.Parameter(q.Name); !twice {
			m.Parameters = append(m.Parameters, q)
		}
	}
	for _, a := range x.Actions {
		if a.Name == "" {
			return Metadata{}, errors.New("metadata has an action without a name")
		}
		m.Actions = append(m.Actions, AgentAction{Name: Action(a.Name), OnTarget: truth(a.OnTarget)})
	}
	if len(m.Actions) == 0 {
		return Metadata{}, errors.New("metadata lists no actions")
	}
	return m, nil
}

func truth(s string) bool { return s == "1" || strings.EqualFold(s, "true") }

// Parameter returns the named parameter.
func (m Metadata) Parameter(name string) (Parameter, bool) {
	for _, p := range m.Parameters {
		if p.Name == name {
			return p, true
		}
	}
	return Parameter{}, false
}

// Supports says whether the agent advertises an action that may run on any node.
func (m Metadata) Supports(a Action) bool {
	for _, b := range m.Actions {
		if b.Name == a && !b.OnTarget {
			return true
		}
	}
	return false
}

// fences says whether the agent has an action that stops a node.
func (m Metadata) fences() bool { return m.Supports(Off) || m.Supports(Reboot) }

// reserved are options that the agent gets from us.
var reserved = map[string]string{
	"action": "remove it: the cluster decides what to do, see fence_action",
	"option": "remove it: the cluster decides what to do, see fence_action",
	"delay":  "use the key delay of the device",
}

// checkParams returns every fault of the parameters for one node. own says who the target is, for options that default to it.
func (m Metadata) checkParams(p Params) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p)) {
		if hint, ok := reserved[name]; ok {
			errs = append(errs, fmt.Errorf("parameter %s is not for the configuration: %s", name, hint))
			continue
		}
		known, ok := m.Parameter(name)
		if !ok {
			errs = append(errs, m.unknown(name))
			continue
		}
		if err := known.check(p[name]); err != nil {
			errs = append(errs, err)
		}
	}
	for _, q := range m.Parameters {
		_, set := p[q.Name]
		_, setOld := p[q.Obsoletes]
		if q.Required && !q.Deprecated && !q.HasDefault && !set && !setOld && reserved[q.Name] == "" {
			errs = append(errs, fmt.Errorf("parameter %s is required: %s", q.Name, q.Summary))
		}
		if set && setOld && q.Obsoletes != "" {
			errs = append(errs, fmt.Errorf("parameters %s and %s are the same option: keep %s", q.Name, q.Obsoletes, q.Name))
		}
	}
	return errs
}

func (m Metadata) unknown(name string) error {
	best, distance := "", max(2, len(name)/3)+1
	for _, p := range m.Parameters {
		if d := editDistance(strings.ToLower(name), p.Name); d < distance && !p.Deprecated {
			best, distance = p.Name, d
		}
	}
	if best != "" {
		return fmt.Errorf("parameter %s is unknown: did you mean %q?", name, best)
	}
	return fmt.Errorf("parameter %s is unknown: `%s -o metadata` lists the known ones", name, m.Name)
}

// check tests a value against the type. The value of a secret is not repeated.
func (p Parameter) check(value string) error {
	shown := strconv.Quote(value)
	if IsSecret(p.Name) {
		shown = mask
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return fmt.Errorf("parameter %s has a line break or NUL, which would begin another option", p.Name)
	}
	switch p.Type {
	case "boolean":
		if !slices.Contains([]string{"1", "0", "yes", "no", "on", "off", "true", "false"}, strings.ToLower(value)) {
			return fmt.Errorf("parameter %s: %s is not a boolean: write 1 or 0", p.Name, shown)
		}
	case "integer":
		if _, err := strconv.ParseInt(value, 10, 64); err != nil {
			return fmt.Errorf("parameter %s: %s is not a whole number", p.Name, shown)
		}
	case "second":
		if n, err := strconv.ParseFloat(value, 64); err != nil || !(n >= 0 && n < 1e9) {
			return fmt.Errorf("parameter %s: %s is not a number of seconds", p.Name, shown)
		}
	case "select":
		if len(p.Options) > 0 && !slices.ContainsFunc(p.Options, func(o string) bool { return strings.EqualFold(o, value) }) {
			return fmt.Errorf("parameter %s: %s is not one of %s", p.Name, shown, strings.Join(p.Options, ", "))
		}
	}
	return nil
}

// editDistance is Levenshtein's, in bytes.
func editDistance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
