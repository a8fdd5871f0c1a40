package vip

import (
	"net/netip"
	"slices"
	"testing"
)

// What is on an interface that works is in, also if it is on another that does not.
func TestUnplugged(t *testing.T) {
	const up, lower = 0x1, iffLowerUp
	links := map[int]kernelLink{1: {index: 1, flags: up | lower}, 2: {index: 2, flags: up}, 3: {index: 3, flags: lower}}
	at := func(a string, index int) kernelAddr {
		return kernelAddr{prefix: netip.MustParsePrefix(a), index: index}
	}
	got := unplugged(links, []kernelAddr{at("198.18.1.1/24", 1), at("198.18.3.1/24", 3), at("198.18.2.1/24", 2), at("fd00::2/64", 2),
		at("198.18.9.1/32", 2), at("198.18.9.1/32", 1), at("198.18.8.1/24", 8)})
	want := []netip.Addr{netip.MustParseAddr("198.18.2.1"), netip.MustParseAddr("198.18.3.1"), netip.MustParseAddr("fd00::2")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
