package config

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// lineIndex says on which line of a TOML text each key, table and array element stands, because the decoder does not.
// It is a scanner, not a parser: it is only built over text that the decoder has accepted, and on any other text it
// ends and may be wrong.
type lineIndex struct {
	at    map[string]int // path -> line from 1
	elems map[string]int // path of an array of tables -> how many headers were seen
}

// child is the path of a key inside the table at path; NUL cannot occur in a TOML key written as such, and an escaped
// one only makes two faults share a line.
func child(path, key string) string { return path + "\x00" + key }

// element is the path of the n-th element of the array at path.
func element(path string, n int) string { return path + "\x01" + strconv.Itoa(n) }

// line returns the line of the path, or of the nearest enclosing table that has one.
func (x *lineIndex) line(path string) int {
	for {
		if n, ok := x.at[path]; ok {
			return n
		}
		i := strings.LastIndexAny(path, "\x00\x01")
		if i < 0 {
			return 1
		}
		path = path[:i]
	}
}

// indexLines scans the whole text.
func indexLines(text string) *lineIndex {
	x := &lineIndex{at: map[string]int{}, elems: map[string]int{}}
	s := &lineScanner{text: strings.TrimPrefix(text, "\ufeff"), line: 1, index: x}
	table := ""
	for {
		s.skipBlank("")
		if s.pos >= len(s.text) {
			return x
		}
		if s.text[s.pos] == '[' {
			table = s.header()
			continue
		}
		s.keyValue(table)
	}
}

// resolve turns the parts of a header or dotted key into a path, entering the newest element of arrays of tables. The
// first mention of a table is its line; that of the last part is this one when it is said here and not only in passing.
func (x *lineIndex) resolve(path string, parts []string, line int, passing bool) string {
	for i, part := range parts {
		path = child(path, part)
		if _, ok := x.at[path]; !ok || i == len(parts)-1 && !passing {
			x.at[path] = line
		}
		if n := x.elems[path]; n > 0 {
			path = element(path, n-1)
		}
	}
	return path
}

type lineScanner struct {
	text  string
	pos   int
	line  int
	index *lineIndex
}

func (s *lineScanner) peek(prefix string) bool { return strings.HasPrefix(s.text[s.pos:], prefix) }

// step passes one byte and counts the line it may end.
func (s *lineScanner) step() {
	if s.text[s.pos] == '\n' {
		s.line++
	}
	s.pos++
}

// skipBlank passes white space, line ends, comments and the separators given.
func (s *lineScanner) skipBlank(separators string) {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '#':
			for s.pos < len(s.text) && s.text[s.pos] != '\n' {
				s.pos++
			}
		case strings.IndexByte(" \t\r\n", c) >= 0, strings.IndexByte(separators, c) >= 0:
			s.step()
		default:
			return
		}
	}
}

func (s *lineScanner) skipSpace() {
	for s.pos < len(s.text) && (s.text[s.pos] == ' ' || s.text[s.pos] == '\t') {
		s.pos++
	}
}

// header passes [a.b] or [[a.b]] and returns the path of the table it opens.
func (s *lineScanner) header() string {
	line, array := s.line, s.peek("[[")
	s.pos++
	if array {
		s.pos++
	}
	parts := s.key()
	for s.pos < len(s.text) && s.text[s.pos] == ']' {
		s.pos++
	}
	if !array || len(parts) == 0 {
		return s.index.resolve("", parts, line, false)
	}
	last := len(parts) - 1
	path := child(s.index.resolve("", parts[:last], line, true), parts[last])
	if _, ok := s.index.at[path]; !ok {
		s.index.at[path] = line
	}
	n := s.index.elems[path]
	s.index.elems[path] = n + 1
	path = element(path, n)
	s.index.at[path] = line
	return path
}

// keyValue passes one "key = value" of the table.
func (s *lineScanner) keyValue(table string) {
	line, before := s.line, s.pos
	path := s.index.resolve(table, s.key(), line, false)
	s.skipSpace()
	if s.pos < len(s.text) && s.text[s.pos] == '=' {
		s.pos++
	}
	s.skipSpace()
	s.value(path)
	if s.pos == before { // not TOML: never stand still
		s.step()
	}
}

// key passes a dotted key and returns its parts.
func (s *lineScanner) key() []string {
	var parts []string
	for {
		s.skipSpace()
		if s.pos >= len(s.text) {
			return parts
		}
		start := s.pos
		switch s.text[s.pos] {
		case '"', '\'':
			s.quoted()
			parts = append(parts, unquoteKey(s.text[start:s.pos]))
		default:
			for s.pos < len(s.text) && strings.IndexByte(" \t\r\n.=[]{},#\"'", s.text[s.pos]) < 0 {
				s.pos++
			}
			parts = append(parts, s.text[start:s.pos])
		}
		s.skipSpace()
		if s.pos >= len(s.text) || s.text[s.pos] != '.' {
			return parts
		}
		s.pos++
	}
}

// unquoteKey leaves escapes to the decoder, which knows them all.
func unquoteKey(raw string) string {
	if len(raw) >= 2 && !strings.Contains(raw, `\`) {
		return raw[1 : len(raw)-1]
	}
	var v struct{ K string }
	if _, err := toml.Decode("K = "+raw, &v); err != nil {
		return raw
	}
	return v.K
}

// quoted passes a string of any of the four kinds.
func (s *lineScanner) quoted() {
	quote := s.text[s.pos : s.pos+1]
	triple := strings.Repeat(quote, 3)
	if s.peek(triple) {
		s.pos += 3
		s.until(triple, quote == `"`)
		for i := 0; i < 2 && s.peek(quote); i++ { // up to two quotes may precede the closing three
			s.pos++
		}
		return
	}
	s.pos++
	s.until(quote, quote == `"`)
}

// until passes everything up to and including the end mark.
func (s *lineScanner) until(end string, escapes bool) {
	for s.pos < len(s.text) {
		if s.peek(end) {
			s.pos += len(end)
			return
		}
		if escapes && s.text[s.pos] == '\\' && s.pos+1 < len(s.text) {
			s.step()
		}
		s.step()
	}
}

// value passes one value and notes the lines of what is inside it.
func (s *lineScanner) value(path string) {
	if s.pos >= len(s.text) {
		return
	}
	switch s.text[s.pos] {
	case '"', '\'':
		s.quoted()
	case '[':
		s.pos++
		for n := 0; ; n++ {
			s.skipBlank(",")
			if s.closed(']') {
				return
			}
			before := s.pos
			s.index.at[element(path, n)] = s.line
			s.value(element(path, n))
			if s.pos == before {
				s.step()
			}
		}
	case '{':
		s.pos++
		for {
			s.skipBlank(",")
			if s.closed('}') {
				return
			}
			s.keyValue(path)
		}
	default:
		for s.pos < len(s.text) && strings.IndexByte(",]}#\n", s.text[s.pos]) < 0 {
			s.pos++
		}
	}
}

// closed passes the closing bracket, or says that the text has ended.
func (s *lineScanner) closed(bracket byte) bool {
	if s.pos >= len(s.text) {
		return true
	}
	if s.text[s.pos] == bracket {
		s.pos++
		return true
	}
	return false
}
