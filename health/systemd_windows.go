package health

import (
	"errors"
	"fmt"
)

func newSystemd(Spec) (asker, error) {
	return nil, fmt.Errorf("systemd probe on Windows: %w", errors.ErrUnsupported)
}
