//go:build !linux

package nowait

import "os"

// WriteAt writes p at the beginning of a file: all of it, or the error says what is wrong.
func (b *Brief) WriteAt(f *os.File, p []byte) error {
	_, err := f.WriteAt(p, 0)
	return err
}
