package vip

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// message is one netlink message, padded.
func message(kind, flags uint16, seq uint32, data []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(append(b, 0, 0, 0, 0), data...)
	return append(b, make([]byte, -len(b)&3)...)
}

func TestEachMessage(t *testing.T) {
	two := slices.Concat(message(1, 2, 3, []byte("odd")), message(4, 5, 6, nil))
	lies := message(1, 0, 0, nil)
	binary.NativeEndian.PutUint32(lies, 17)
	small := message(1, 0, 0, nil)
	binary.NativeEndian.PutUint32(small, 15)
	stop := errors.New("stop")
	for name, x := range map[string]struct {
		b    []byte
		ends error // what visit returns
		want int
		err  error
	}{
		"nothing":                    {},
		"two":                        {b: two, want: 2},
		"the last without its pad":   {b: message(1, 0, 0, []byte("odd"))[:19], want: 1},
		"longer than there is":       {b: lies, err: errCut},
		"shorter than its own head":  {b: small, err: errCut},
		"the first ends it":          {b: two, ends: stop, want: 1, err: stop},
		"what is left is no message": {b: append(slices.Clone(two), 1, 2, 3), want: 2},
	} {
		var got []header
		err := eachMessage(x.b, func(h header, data []byte) error {
			got = append(got, h)
			if h == (header{1, 2, 3}) && string(data) != "odd" {
				t.Errorf("%s: data %q", name, data)
			}
			return x.ends
		})
		if len(got) != x.want || !errors.Is(err, x.err) {
			t.Errorf("%s: %v, %v; want %d and %v", name, got, err, x.want, x.err)
		}
	}
}

func TestAckError(t *testing.T) {
	code := func(e unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-int32(e))) }
	told := slices.Concat(code(unix.EINVAL), make([]byte, unix.SizeofNlMsghdr), appendAttr(nil, unix.NLMSGERR_ATTR_MSG, []byte("too odd\x00")))
	const both = unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED
	for name, x := range map[string]struct {
		flags uint16
		data  []byte
		is    error
		text  string
	}{
		"done":                    {data: code(0)},
		"refused":                 {data: code(unix.EPERM), is: unix.EPERM, text: unix.EPERM.Error()},
		"refused with a reason":   {flags: both, data: told, is: unix.EINVAL, text: unix.EINVAL.Error() + " (too odd)"},
		"the reason is elsewhere": {flags: unix.NLM_F_ACK_TLVS, data: told, is: unix.EINVAL, text: unix.EINVAL.Error()},
		"cut":                     {data: []byte{1, 2, 3}, is: errCut, text: errCut.Error()},
	} {
		err := ackError(x.flags, x.data)
		if !errors.Is(err, x.is) || err != nil && err.Error() != x.text {
			t.Errorf("%s: %v, want %q", name, err, x.text)
		}
	}
}

func FuzzEachMessage(f *testing.F) {
	f.Add(slices.Concat(message(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, 1, make([]byte, 40)), message(unix.NLMSG_DONE, 0, 2, make([]byte, 4))))
	f.Add([]byte{16, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		visited := 0
		err := eachMessage(b, func(h header, data []byte) error {
			visited += unix.SizeofNlMsghdr + len(data)
			_ = ackError(h.flags, data)
			return nil
		})
		if visited > len(b) || err != nil && !errors.Is(err, errCut) {
			t.Errorf("visited %d of %d bytes: %v", visited, len(b), err)
		}
	})
}
