//go:build !race

package nowait

func happens()  {}
func happened() {}
