package urgency

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// Raise gives this process the priority class "high" (SetPriorityClass).
func Raise() error {
	if err := windows.SetPriorityClass(windows.CurrentProcess(), windows.HIGH_PRIORITY_CLASS); err != nil {
		return fmt.Errorf("setting the priority class: %w", err)
	}
	return nil
}

// Ordinary calls start, which starts a process: Windows does not hand a high priority class on to children.
func Ordinary(start func() error) error { return start() }
