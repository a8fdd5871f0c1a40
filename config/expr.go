package config

import (
	"fmt"
	"slices"
	"strings"

	"hacluster/placement"
)

// maxDepth bounds the parentheses of a depends_on expression.
const maxDepth = 50

// ParseDependsOn reads `a`, `a and b`, `a or b` with parentheses; `and` binds tighter than `or`. An empty text is no
// dependency: nil. Whether the names exist is not its business.
func ParseDependsOn(text string) (*placement.Expr, error) {
	p := exprParser{tokens: exprTokens(text)}
	if len(p.tokens) == 0 {
		return nil, nil
	}
	e, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t != "" {
		return nil, fmt.Errorf("%q follows where the expression should end", t)
	}
	return &e, nil
}

// FormatDependsOn renders an expression so that ParseDependsOn reads it back; nil renders as "".
func FormatDependsOn(e *placement.Expr) string {
	if e == nil {
		return ""
	}
	join := func(children []placement.Expr, word string, wrap func(placement.Expr) bool) string {
		parts := make([]string, len(children))
		for i := range children {
			parts[i] = FormatDependsOn(&children[i])
			if wrap(children[i]) {
				parts[i] = "(" + parts[i] + ")"
			}
		}
		return strings.Join(parts, word)
	}
	switch {
	case e.Name != "":
		return e.Name
	case len(e.All) > 0: // nested groups keep their parentheses: the shape is the value
		return join(e.All, " and ", func(c placement.Expr) bool { return c.Name == "" })
	default:
		return join(e.Any, " or ", func(c placement.Expr) bool { return len(c.Any) > 0 })
	}
}

// leaves lists the names of an expression, each once, in order.
func leaves(e *placement.Expr) []string {
	var all []string
	var walk func(e placement.Expr)
	walk = func(e placement.Expr) {
		if e.Name != "" && !slices.Contains(all, e.Name) {
			all = append(all, e.Name)
		}
		for _, c := range e.All {
			walk(c)
		}
		for _, c := range e.Any {
			walk(c)
		}
	}
	if e != nil {
		walk(*e)
	}
	return all
}

// exprTokens splits at white space and parentheses.
func exprTokens(text string) []string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "(", " ( "), ")", " ) ")
	return strings.Fields(text)
}

type exprParser struct {
	tokens []string
	pos    int
}

func (p *exprParser) peek() string {
	if p.pos < len(p.tokens) {
		return p.tokens[p.pos]
	}
	return ""
}

// or reads terms joined by "or"; a single term is returned as it is.
func (p *exprParser) or(depth int) (placement.Expr, error) {
	return p.chain("or", depth, p.and, func(all []placement.Expr) placement.Expr { return placement.Expr{Any: all} })
}

func (p *exprParser) and(depth int) (placement.Expr, error) {
	return p.chain("and", depth, p.term, func(all []placement.Expr) placement.Expr { return placement.Expr{All: all} })
}

// chain reads operands of one level, and builds a node when there is more than one.
func (p *exprParser) chain(word string, depth int, next func(int) (placement.Expr, error),
	build func([]placement.Expr) placement.Expr) (placement.Expr, error) {
	first, err := next(depth)
	if err != nil {
		return placement.Expr{}, err
	}
	all := []placement.Expr{first}
	for p.peek() == word {
		p.pos++
		e, err := next(depth)
		if err != nil {
			return placement.Expr{}, err
		}
		all = append(all, e)
	}
	if len(all) == 1 {
		return first, nil
	}
	return build(all), nil
}

func (p *exprParser) term(depth int) (placement.Expr, error) {
	switch t := p.peek(); t {
	case "":
		return placement.Expr{}, fmt.Errorf("a resource name is missing at the end")
	case "(":
		if depth == maxDepth {
			return placement.Expr{}, fmt.Errorf("more than %d parentheses are nested", maxDepth)
		}
		p.pos++
		e, err := p.or(depth + 1)
		if err != nil {
			return placement.Expr{}, err
		}
		if p.peek() != ")" {
			return placement.Expr{}, fmt.Errorf("a closing parenthesis is missing")
		}
		p.pos++
		return e, nil
	case ")", "and", "or":
		return placement.Expr{}, fmt.Errorf("%q stands where a resource name should be", t)
	default:
		if !namePattern.MatchString(t) {
			return placement.Expr{}, fmt.Errorf("%s is not a resource name", show(t))
		}
		p.pos++
		return placement.Expr{Name: t}, nil
	}
}
