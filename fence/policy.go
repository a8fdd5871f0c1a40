package fence

// Policy says when a node is fenced. The configuration reads it; package placement decides by it.
type Policy string

const (
	Never      Policy = "never"       // only on request (hactl node fence)
	WhenUnsure Policy = "when-unsure" // where the lease cannot prove that the owner has let go
	Always     Policy = "always"      // each owner that falls silent, also when its lease would prove it
)

// Policies in the order they are documented.
var Policies = []Policy{Never, WhenUnsure, Always}
