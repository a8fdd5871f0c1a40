package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"hacluster/api"
	"hacluster/placement"
)

// tokenVerb is `hactl token`.
type tokenVerb struct {
	*env
	Role placement.Role
	TTL  time.Duration

	Rejoin string // optional: the member that lost its store
}

func tokenCommand(e *env) *cli.Command {
	return &cli.Command{Name: "token", Usage: "make a token with which one node can join, or come back",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "role", Value: string(placement.RoleMember), Usage: "member or witness"},
			&cli.StringFlag{Name: "rejoin", Usage: "for `NODE`, a member that lost its store and its certificate"},
			&cli.DurationFlag{Name: "ttl", Value: time.Hour, Usage: "how long it is good"},
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			role, err := parseRole(c.String("role"))
			if err != nil {
				return err
			}
			if c.IsSet("rejoin") && c.IsSet("role") {
				return usagef("leave --role out", "a node comes back in the role it had")
			}
			return (&tokenVerb{e, role, c.Duration("ttl"), c.String("rejoin")}).run(c.Context)
		}}
}

func (v *tokenVerb) run(ctx context.Context) error {
	r, err := v.write(ctx, api.Write{Verb: api.VerbToken, Role: v.Role, TTL: v.TTL, Rejoin: v.Rejoin})
	if err != nil {
		return err
	}
	if v.JSON {
		return v.printJSON(r)
	}
	address := "ADDRESS"
	if st, err := v.status(ctx); err == nil {
		if n, err := st.FindNode(st.Node); err == nil && len(n.Addresses) > 0 {
			address = n.Addresses[0]
		}
	}
	asRole := ""
	if v.Role != placement.RoleMember {
		asRole = " --role " + string(v.Role)
	}
	v.printf("%s\n", r.Token)
	if v.Rejoin != "" {
		v.progress("Good for node %s within %s; whoever has it can take the place of %s, keep it secret.\nOn %s, with had stopped, as root:\n"+
			"  hactl node rejoin %s --token TOKEN", v.Rejoin, short(v.TTL), v.Rejoin, v.Rejoin, clean(address))
		return nil
	}
	v.progress("Good for one %s within %s; whoever has it can join, keep it secret.\nOn the new machine, as root:\n"+
		"  hactl join %s --token TOKEN \\\n    --address ITS_OWN_ADDRESS%s", v.Role, short(v.TTL), clean(address), asRole)
	return nil
}

func parseRole(s string) (placement.Role, error) {
	switch r := placement.Role(s); r {
	case placement.RoleMember, placement.RoleWitness:
		return r, nil
	}
	return "", usagef("a member may own groups, a witness only votes", "--role %q is neither member nor witness", s)
}
