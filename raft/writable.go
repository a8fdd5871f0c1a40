package raft

import (
	"errors"
	"fmt"
	"os"
)

// room is what Writable asks for: the store grows by a few pages for each decision, so that this is enough for a while.
const room = 256 << 10

// Writable writes a quarter of a megabyte to the data directory and takes it away again. The error wraps ErrStorage: the disk is
// full, read-only or broken.
func Writable(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("%w: %s cannot be written: %w", ErrStorage, dir, err)
	}
	defer func() {
		if e := errors.Join(f.Close(), os.Remove(f.Name())); err == nil && e != nil {
			err = fmt.Errorf("%w: %s cannot be written: %w", ErrStorage, dir, e)
		}
	}()
	block := make([]byte, 64<<10)
	for range room / len(block) {
		if _, err = f.Write(block); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("%w: %s cannot be written: %w (free some space, or mend the disk)", ErrStorage, dir, err)
	}
	return nil
}
