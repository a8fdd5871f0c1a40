package resources

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	logMax   = 10 << 20        // bytes; one old file of about the same size is kept
	logCheck = 5 * time.Second // how often the size is looked at
)

// rotate copies a log that has grown over limit to NAME.1 and empties it. The program keeps its descriptor, opened for
// append, and goes on at the start of the file; a line written between copy and truncate can be lost.
func rotate(name string, limit int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rotating the log: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("rotating the log: %w", err)
	}
	if st.Size() <= limit {
		return nil
	}
	// A program that wrote far over the limit since the last look leaves only its newest part: the disk is not ours.
	if _, err := f.Seek(max(0, st.Size()-2*limit), io.SeekStart); err != nil {
		return fmt.Errorf("rotating the log: %w", err)
	}
	old, err := os.OpenFile(name+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("rotating the log: %w", err)
	}
	_, err = io.Copy(old, io.LimitReader(f, 2*limit))
	// The log is emptied even when the copy found a full disk: giving space back is the way out of that.
	return errors.Join(err, old.Close(), f.Truncate(0))
}
