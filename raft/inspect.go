package raft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// The layout of a bbolt file (go.etcd.io/bbolt, internal/common: page.go, meta.go, inode.go, bucket.go).
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltNoFreelist = ^uint64(0)

	pageHeader  = 16
	elementSize = 16
	metaSize    = 64
	bucketSize  = 16

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10

	leafBucket = 0x01 // flag of a leaf element: its value is a bucket
	maxDepth   = 64
)

// inspect reads the structure of a bbolt file without bbolt, which maps the file and crashes the process (a panic in a
// goroutine of its own, a fault outside of the mapping) on some damage. Every page must be reachable once or free, every
// key in order. It also refuses a file of whose two meta pages one is damaged: bbolt would silently go back to the older
// one and with it forget a vote or an entry that others rely on.
func inspect(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f := boltFile{data: b, order: binary.NativeEndian, seen: map[uint64]bool{}}
	m, err := f.newestMeta()
	if err != nil {
		return err
	}
	if err := f.tree(m.root, nil, nil, 0); err != nil {
		return err
	}
	return f.freelist(m.freelist)
}

type boltFile struct {
	data     []byte
	order    binary.ByteOrder
	pageSize uint64
	pages    uint64 // high water mark
	seen     map[uint64]bool
}

type boltMeta struct{ pageSize, root, freelist, pages, tx uint64 }

func (f *boltFile) newestMeta() (boltMeta, error) {
	m0, err := f.meta(0)
	if err != nil {
		return m0, fmt.Errorf("first meta page: %w", err)
	}
	m1, err := f.meta(m0.pageSize)
	if err != nil {
		return m1, fmt.Errorf("second meta page: %w", err)
	}
	newest := m0
	if m1.tx > m0.tx {
		newest = m1
	}
	f.pageSize, f.pages = newest.pageSize, newest.pages
	switch {
	case m0.pageSize != m1.pageSize || m0.tx+1 != m1.tx && m1.tx+1 != m0.tx:
		return newest, errors.New("the two meta pages do not belong together")
	case f.pageSize < 512 || f.pageSize > 1<<20 || f.pages < 2 || f.pages > uint64(len(f.data))/f.pageSize:
		return newest, fmt.Errorf("it has %d bytes, %d pages of %d are recorded: it was cut short", len(f.data), f.pages, f.pageSize)
	}
	return newest, nil
}

func (f *boltFile) meta(at uint64) (boltMeta, error) {
	if at > uint64(len(f.data)) || uint64(len(f.data))-at < pageHeader+metaSize {
		return boltMeta{}, errors.New("the file ends before it")
	}
	b := f.data[at+pageHeader:][:metaSize]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if f.order.Uint32(b) != boltMagic || f.order.Uint32(b[4:]) != boltVersion || f.order.Uint64(b[56:]) != sum.Sum64() {
		return boltMeta{}, errNotSealed
	}
	return boltMeta{pageSize: uint64(f.order.Uint32(b[8:])), root: f.order.Uint64(b[16:]), freelist: f.order.Uint64(b[32:]),
		pages: f.order.Uint64(b[40:]), tx: f.order.Uint64(b[48:])}, nil
}

// page is one page with its overflow, entered as reachable.
func (f *boltFile) page(id uint64) ([]byte, error) {
	if id < 2 || id >= f.pages {
		return nil, fmt.Errorf("page %d is outside of the file", id)
	}
	b := f.data[id*f.pageSize:]
	overflow := uint64(f.order.Uint32(b[12:]))
	if f.order.Uint64(b) != id || overflow >= f.pages-id {
		return nil, fmt.Errorf("page %d has a damaged header", id)
	}
	for i := id; i <= id+overflow; i++ {
		if f.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		f.seen[i] = true
	}
	return b[:(overflow+1)*f.pageSize], nil
}

// tree walks the page and all below it; its keys lie in [lo, hi), nil: no bound.
func (f *boltFile) tree(id uint64, lo, hi []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d is nested too deep", id)
	}
	p, err := f.page(id)
	if err != nil {
		return err
	}
	if err := f.elements(p, lo, hi, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (f *boltFile) elements(p, lo, hi []byte, depth int) error {
	flags, n := f.order.Uint16(p[8:]), int(f.order.Uint16(p[10:]))
	if flags != flagBranch && flags != flagLeaf || flags == flagBranch && n == 0 || len(p) < pageHeader+n*elementSize {
		return errors.New("damaged header")
	}
	keys := make([][]byte, n)
	for i := range n {
		at := pageHeader + i*elementSize
		pos, ksize := at+int(f.order.Uint32(p[at:])), int(f.order.Uint32(p[at+4:]))
		if flags == flagLeaf {
			pos, ksize = at+int(f.order.Uint32(p[at+4:])), int(f.order.Uint32(p[at+8:]))
		}
		if pos < pageHeader+n*elementSize || pos > len(p) || ksize > len(p)-pos {
			return fmt.Errorf("element %d is outside of it", i)
		}
		keys[i] = p[pos : pos+ksize]
		if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 || lo != nil && bytes.Compare(keys[i], lo) < 0 || hi != nil && bytes.Compare(keys[i], hi) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
	}
	for i := range n {
		at := pageHeader + i*elementSize
		var err error
		if flags == flagBranch {
			next := hi
			if i+1 < n {
				next = keys[i+1]
			}
			err = f.tree(f.order.Uint64(p[at+8:]), keys[i], next, depth+1)
		} else {
			err = f.leaf(p, at, keys[i], depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *boltFile) leaf(p []byte, at int, key []byte, depth int) error {
	flags, pos, vsize := f.order.Uint32(p[at:]), at+int(f.order.Uint32(p[at+4:]))+len(key), int(f.order.Uint32(p[at+12:]))
	if flags&^leafBucket != 0 || vsize > len(p)-pos {
		return fmt.Errorf("value of %q is outside of it", key)
	}
	if flags&leafBucket == 0 {
		return nil
	}
	v := p[pos : pos+vsize]
	if len(v) < bucketSize {
		return fmt.Errorf("bucket %q is too short", key)
	}
	if root := f.order.Uint64(v); root != 0 {
		return f.tree(root, nil, nil, depth+1)
	}
	if len(v) < bucketSize+pageHeader || depth > maxDepth {
		return fmt.Errorf("bucket %q is too short", key)
	}
	return f.elements(v[bucketSize:], nil, nil, depth+1) // small buckets live inside the page
}

// freelist checks that every page is used or free, and none both.
func (f *boltFile) freelist(id uint64) error {
	if id == boltNoFreelist {
		return errors.New("it has no list of free pages")
	}
	p, err := f.page(id)
	if err != nil {
		return err
	}
	n, ids := uint64(f.order.Uint16(p[10:])), p[pageHeader:]
	if n == 0xFFFF { // more than fit the field: the number stands before the ids
		n, ids = f.order.Uint64(ids), ids[8:]
	}
	if f.order.Uint16(p[8:]) != flagFreelist || n > uint64(len(ids)/8) {
		return errors.New("the list of free pages is damaged")
	}
	for i := range n {
		free := f.order.Uint64(ids[i*8:])
		if free < 2 || free >= f.pages || f.seen[free] {
			return fmt.Errorf("page %d is both free and used", free)
		}
		f.seen[free] = true
	}
	for i := uint64(2); i < f.pages; i++ {
		if !f.seen[i] {
			return fmt.Errorf("page %d is neither free nor used", i)
		}
	}
	return nil
}
