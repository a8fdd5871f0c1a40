package fence

import (
	"errors"
	"os/exec"
)

// group refuses to run: the fence-agents package does not exist for Windows, and a program whose children cannot be
// ended with it must not be trusted with a power switch.
type group struct{}

func newGroup(cmd *exec.Cmd, _ []string) *group {
	cmd.Err = errors.Join(errors.New("fence agents run on Linux only"), errors.ErrUnsupported)
	return &group{}
}

func (g *group) started() {}
func (g *group) reap()    {}
func (g *group) close()   {}
