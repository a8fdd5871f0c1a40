package resources

import (
	"strings"
	"testing"
)

func TestNewSaysWhatIsMissing(t *testing.T) {
	for want, s := range map[string]Spec{
		"unit is missing":                 {Name: "a", Kind: KindSystemd},
		"unit must be a name":             {Name: "a", Kind: KindSystemd, Unit: "../x"},
		"command is missing":              {Name: "a", Kind: KindProcess},
		"state directory is missing":      {Name: "a", Kind: KindProcess, Command: []string{"x"}},
		"status is missing":               {Name: "a", Kind: KindScript, Start: []string{"x"}, Stop: []string{"x"}},
		"addresses are run by package":    {Name: "a", Kind: KindAddress},
		"unknown type":                    {Name: "a", Kind: "magic"},
		"contain a slash":                 {Name: "a/b", Kind: KindScript},
		`resource "": a name must not be`: {Kind: KindScript},
	} {
		if _, err := New(s, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error with %q", s, err, want)
		}
	}
}
