package placement

// Satisfied says whether the expression holds, given which resources are online. A nil expression always holds.
func (e *Expr) Satisfied(online func(name string) bool) bool {
	switch {
	case e == nil:
		return true
	case e.Name != "":
		return online(e.Name)
	case len(e.All) > 0:
		for i := range e.All {
			if !e.All[i].Satisfied(online) {
				return false
			}
		}
		return true
	}
	for i := range e.Any {
		if e.Any[i].Satisfied(online) {
			return true
		}
	}
	return false
}

// Mentions says whether the expression names the resource.
func (e *Expr) Mentions(name string) bool {
	if e == nil {
		return false
	}
	if e.Name == name {
		return true
	}
	for _, list := range [][]Expr{e.All, e.Any} {
		for i := range list {
			if list[i].Mentions(name) {
				return true
			}
		}
	}
	return false
}
