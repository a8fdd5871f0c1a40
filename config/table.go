package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// maxText bounds a configuration file: it travels through Raft and is read from peers.
const maxText = 1 << 20

// document is one file on its way in: decoded loosely, so that every wrong value of it can be reported at once.
type document struct {
	file   string
	lines  *lineIndex
	keys   map[string][]string // known keys by table
	faults []Fault
}

// open decodes the text; a syntax error is the only fault that hides the others.
func open(file string, text []byte, root string, keys map[string][]string) (*document, *table, error) {
	d := &document{file: file, keys: keys}
	if len(text) > maxText {
		return nil, nil, joinFaults([]Fault{{File: file, Reason: fmt.Sprintf("the file has %d bytes", len(text)),
			Hint: fmt.Sprintf("the limit is %d", maxText)}})
	}
	m := map[string]any{}
	if _, err := toml.Decode(string(text), &m); err != nil {
		return nil, nil, joinFaults([]Fault{syntaxFault(file, err)})
	}
	d.lines = indexLines(string(text))
	return d, &table{doc: d, kind: root, m: m, read: map[string]bool{}}, nil
}

func syntaxFault(file string, err error) Fault {
	f := Fault{File: file, Line: 1, Reason: "not valid TOML: " + err.Error(), Hint: "the rest of the file is checked once this is right"}
	var p toml.ParseError
	if errors.As(err, &p) {
		reason := p.Message
		if reason == "" { // the decoder keeps some messages to itself
			reason = err.Error()
			if _, after, ok := strings.Cut(reason, "): "); ok {
				reason = after
			}
			reason = strings.TrimPrefix(reason, fmt.Sprintf("toml: line %d: ", p.Position.Line))
		}
		f.Line, f.Reason = max(1, p.Position.Line), "not valid TOML: "+strings.TrimSuffix(reason, ".")
	}
	return f
}

// table is one table of the document with typed access to its keys. Every getter notes the key as read, returns the
// default when the key is absent or wrong, and reports what is wrong.
type table struct {
	doc  *document
	kind string // which list of known keys applies
	path string // in the line index
	key  string // dotted, for messages; empty at the root
	m    map[string]any
	read map[string]bool
}

func (t *table) has(key string) bool { _, ok := t.m[key]; return ok }

// line is where the key stands, or the table when the key is absent.
func (t *table) line(key string) int { return t.doc.lines.line(child(t.path, key)) }

func (t *table) dotted(key string) string {
	if key == "" { // TOML allows it
		key = `""`
	}
	if t.key == "" {
		return key
	}
	return t.key + "." + key
}

// fault reports the key. The hint says what to do.
func (t *table) fault(key, hint, format string, args ...any) {
	t.faultAt(t.line(key), key, hint, format, args...)
}

func (t *table) faultAt(line int, key, hint, format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	t.doc.faults = append(t.doc.faults, Fault{File: t.doc.file, Line: line, Key: t.dotted(key), Reason: reason, Hint: hint})
}

// lookup notes the key as read.
func (t *table) lookup(key string) (any, bool) {
	t.read[key] = true
	v, ok := t.m[key]
	return v, ok
}

// str reads a string; an empty one is reported when it is required.
func (t *table) str(key, def string) string {
	v, ok := t.lookup(key)
	if !ok {
		return def
	}
	s, ok := v.(string)
	if !ok {
		t.fault(key, stringHint(v), "%s is not a string", show(v))
		return def
	}
	if strings.ContainsRune(s, 0) {
		t.fault(key, "remove it", "the string contains a NUL character")
		return def
	}
	return s
}

func stringHint(v any) string {
	switch v.(type) {
	case []any, []map[string]any, map[string]any:
		return "write one string in double quotes"
	default:
		return "put it in double quotes"
	}
}

// required reads a string that must be there and not be empty.
func (t *table) required(key, hint string) (string, bool) {
	if !t.has(key) {
		t.read[key] = true
		t.fault(key, hint, "is missing")
		return "", false
	}
	before := len(t.doc.faults)
	s := t.str(key, "")
	if len(t.doc.faults) > before {
		return "", false
	}
	if s == "" {
		t.fault(key, hint, "is empty")
		return "", false
	}
	return s, true
}

// enum reads one of a list of words.
func enum[S ~string](t *table, key string, def S, words []S) S {
	v, ok := t.lookup(key)
	if !ok {
		return def
	}
	s, _ := v.(string)
	if contains(words, s) {
		return S(s)
	}
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	hint := didYouMean(s, all)
	if hint == "" {
		hint = "use " + orList(words)
	}
	t.fault(key, hint, "%s is not one of %s", show(v), strings.Join(all, ", "))
	return def
}

func (t *table) boolean(key string, def bool) bool {
	v, ok := t.lookup(key)
	if !ok {
		return def
	}
	b, ok := v.(bool)
	if !ok {
		t.fault(key, "write true or false, without quotes", "%s is not a boolean", show(v))
		return def
	}
	return b
}

// integer reads a whole number between low and high.
func (t *table) integer(key string, def, low, high int) int {
	v, ok := t.lookup(key)
	if !ok {
		return def
	}
	n, ok := v.(int64)
	if !ok {
		t.fault(key, "write it as digits, without quotes", "%s is not a whole number", show(v))
		return def
	}
	if n < int64(low) || n > int64(high) {
		t.fault(key, fmt.Sprintf("use %d to %d", low, high), "%d is out of range", n)
		return def
	}
	return int(n)
}

// duration reads a string such as "5s" that must be at least low; low 0 allows zero, low 1ns asks for any positive one.
func (t *table) duration(key string, def, low time.Duration) time.Duration {
	v, ok := t.lookup(key)
	if !ok {
		return def
	}
	s, isString := v.(string)
	d, err := time.ParseDuration(s)
	if !isString || err != nil {
		t.fault(key, `write it like "5s" or "500ms"`, "%s is not a duration", show(v))
		return def
	}
	switch {
	case d >= low:
		return d
	case d < 0:
		t.fault(key, "a duration cannot run backwards", "%s is negative", show(v))
	case low > time.Nanosecond:
		t.fault(key, "use at least "+human(low), "%s is too short", show(v))
	default:
		t.fault(key, "it must be greater than zero", "%s is zero", show(v))
	}
	return def
}

// elem is one string of an array with its line.
type elem struct {
	value string
	line  int
}

func values(elems []elem) []string {
	var all []string
	for _, e := range elems {
		all = append(all, e.value)
	}
	return all
}

// list reads an array of strings without empty or repeated ones; example is shown when it is not one.
func (t *table) list(key, example string, repeats bool) []elem {
	v, ok := t.lookup(key)
	if !ok {
		return nil
	}
	array, ok := v.([]any)
	if !ok {
		t.fault(key, "write it like "+example, "%s is not an array of strings", show(v))
		return nil
	}
	var all []elem
	for i, v := range array {
		line := t.doc.lines.line(element(child(t.path, key), i))
		s, ok := v.(string)
		switch {
		case !ok:
			t.faultAt(line, key, "write it like "+example, "element %d is %s, not a string", i+1, show(v))
		case s == "" && !repeats, strings.ContainsRune(s, 0):
			t.faultAt(line, key, "remove it", "element %d is empty or contains a NUL character", i+1)
		case !repeats && slices.ContainsFunc(all, func(e elem) bool { return e.value == s }):
			t.faultAt(line, key, "remove one", "%s is listed twice", show(s))
		default:
			all = append(all, elem{s, line})
		}
	}
	return all
}

// command reads program and arguments.
func (t *table) command(key string) []string {
	const example = `["/usr/local/bin/program", "argument"]`
	args := values(t.list(key, example, true))
	if t.has(key) && len(args) == 0 {
		if v, ok := t.m[key].([]any); ok && len(v) == 0 {
			t.fault(key, "write it like "+example, "the command is empty")
		}
		return nil
	}
	if len(args) > 0 && (args[0] == "" || strings.Contains(args[0], "/") && !isAbs(args[0])) {
		t.fault(key, "write the whole path: the file is the same on every node, the working directory is not",
			"%s is not an absolute path", show(args[0]))
	}
	return args
}

// texts reads a table of strings; check returns a reason against one entry, or "".
func (t *table) texts(key string, check func(name, value string) (reason, hint string)) map[string]string {
	v, ok := t.lookup(key)
	if !ok {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.fault(key, fmt.Sprintf(`write it like %s = { NAME = "value" }`, key), "%s is not a table of strings", show(v))
		return nil
	}
	all := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		v := m[name]
		line := t.doc.lines.line(child(child(t.path, key), name))
		s, ok := v.(string)
		if !ok {
			t.faultAt(line, key+"."+name, stringHint(v), "%s is not a string", show(v))
			continue
		}
		if reason, hint := check(name, s); reason != "" {
			t.faultAt(line, key+"."+name, hint, "%s", reason)
			continue
		}
		all[name] = s
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// sub opens a table; an absent one is empty, so that its defaults apply.
func (t *table) sub(key string) *table {
	s := &table{doc: t.doc, kind: key, path: child(t.path, key), key: t.dotted(key), m: map[string]any{}, read: map[string]bool{}}
	if v, ok := t.lookup(key); ok {
		if s.m, ok = v.(map[string]any); !ok {
			s.m = map[string]any{}
			t.fault(key, "write it as a table: ["+s.key+"]", "%s is not a table", show(v))
		}
	}
	return s
}

// tables opens an array of tables.
func (t *table) tables(key string) []*table {
	v, ok := t.lookup(key)
	if !ok {
		return nil
	}
	path, dotted := child(t.path, key), t.dotted(key)
	var maps []map[string]any
	switch v := v.(type) {
	case []map[string]any:
		maps = v
	case []any:
		for i, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				t.faultAt(t.doc.lines.line(element(path, i)), key, "begin each with [["+dotted+"]]", "%s is not a table", show(e))
				m = nil
			}
			maps = append(maps, m) // keeps the indices of the others
		}
	default:
		t.fault(key, "begin each with [["+dotted+"]], in double brackets", "%s is not an array of tables", show(v))
	}
	var all []*table
	for i, m := range maps {
		if m != nil {
			all = append(all, &table{doc: t.doc, kind: dotted, path: element(path, i), key: dotted, m: m, read: map[string]bool{}})
		}
	}
	return all
}

// done reports the keys nobody knows.
func (t *table) done() {
	for _, key := range slices.Sorted(maps.Keys(t.m)) {
		if !slices.Contains(t.doc.keys[t.kind], key) {
			t.fault(key, t.unknownHint(key), "unknown key")
		}
	}
}

func (t *table) unknownHint(key string) string {
	for _, kind := range tableOrder {
		if slices.Contains(t.doc.keys[kind], key) {
			return "it belongs to " + tableTitle[kind]
		}
	}
	if hint := didYouMean(key, t.doc.keys[t.kind]); hint != "" {
		return hint
	}
	for other, keys := range map[string]map[string][]string{"had.toml": nodeKeys, "cluster.toml": clusterKeys} {
		for _, kind := range []string{"node", "cluster"} {
			if slices.Contains(keys[kind], key) && len(t.doc.keys[kind]) == 0 {
				return "it belongs to " + other
			}
		}
	}
	return "known here: " + strings.Join(t.doc.keys[t.kind], ", ")
}

// only reports keys that do not apply to the type of this resource or probe.
func (t *table) only(applies map[string][]string, typ, what string) {
	for _, key := range slices.Sorted(maps.Keys(applies)) {
		if types := applies[key]; t.has(key) && !slices.Contains(types, typ) {
			t.fault(key, "remove it, or change the type", "applies to type %s, and this %s is of type %s", orList(types), what, typ)
		}
	}
}
