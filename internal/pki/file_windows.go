package pki

// syncDir does nothing: Windows has no sync of directories, and NTFS journals the rename.
func syncDir(string) error { return nil }
