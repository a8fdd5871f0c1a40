package lab

import (
	"context"
	"fmt"
	"os/exec"
)

// TestService is the import path of the built-in test service, for Build.
const TestService = "hacluster/internal/lab/testservice"

// Build compiles commands of this module into dir with the go tool, each under the last part of its import path. It must be
// called from within the source tree, as tests are.
func Build(ctx context.Context, dir string, packages ...string) error {
	args := append([]string{"build", "-o", dir + "/"}, packages...)
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("building %v: %w\n%s", packages, err, out)
	}
	return nil
}
