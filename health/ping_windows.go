package health

import (
	"errors"
	"fmt"
)

func newPing(Spec) (asker, error) {
	return nil, fmt.Errorf("ping probe on Windows: %w", errors.ErrUnsupported)
}
