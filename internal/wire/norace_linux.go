//go:build !race

package wire

func happens()  {}
func happened() {}
