package pki

import (
	"errors"
	"os"
)

// syncDir makes a rename in the directory survive a power cut (fsync(2): the directory entry needs a sync of its own).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
