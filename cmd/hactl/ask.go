package main

import (
	"bufio"
	"context"
	"strings"
)

// asker puts questions to a person. It reads whole lines and waits no longer than ctx.
type asker struct {
	*env
	in *bufio.Reader
}

func (e *env) asker() *asker { return &asker{e, bufio.NewReader(e.In)} }

// line asks and returns the answer without the blanks around it. Where nobody can answer, the hint says which flags do.
func (a *asker) line(ctx context.Context, question, flags string) (string, error) {
	if !a.Asks || a.JSON {
		return "", usagef("answer beforehand with "+flags, "nobody is here to answer: %s", question)
	}
	a.printf("%s ", question)
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() { // ends with the process when nobody answers
		text, err := a.in.ReadString('\n')
		got <- answer{text, err}
	}()
	select {
	case r := <-got:
		if r.err != nil && r.text == "" {
			return "", refusef("run the command again", "no answer; nothing was changed")
		}
		return strings.TrimSpace(r.text), nil
	case <-ctx.Done():
		return "", refusef("run the command again", "no answer; nothing was changed")
	}
}

// yes asks a question to which only the whole word counts.
func (a *asker) yes(ctx context.Context, question, flags string) error {
	text, err := a.line(ctx, question+" [yes/no]", flags)
	if err != nil {
		return err
	}
	if text != "yes" {
		return refusef("run the command again when it is so", "the answer was %q, not yes; nothing was changed", text)
	}
	return nil
}
