package health

import "syscall"

// peerErrors are what the other side, or the network that looked for it, said. EHOSTUNREACH counts: the neighbour was
// asked for (ARP, ND) and nobody answered.
var peerErrors = []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.EPIPE}

// silenceErrors mean that nobody answered.
var silenceErrors = []error{syscall.ETIMEDOUT}

// ownErrors are shortages and prohibitions of this node: the question was never put.
var ownErrors = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EACCES,
	syscall.EPERM, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAFNOSUPPORT, syscall.EINVAL,
}
