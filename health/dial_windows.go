package health

import "golang.org/x/sys/windows"

// peerErrors: see dial_linux.go. The syscall.ECONN... names of Windows are inventions of Go that no call returns.
var peerErrors = []error{windows.WSAECONNREFUSED, windows.WSAECONNRESET, windows.WSAECONNABORTED, windows.WSAEHOSTUNREACH, windows.WSAEHOSTDOWN}

// silenceErrors mean that nobody answered.
var silenceErrors = []error{windows.WSAETIMEDOUT}

// ownErrors are shortages and prohibitions of this node.
var ownErrors = []error{
	windows.WSAEMFILE, windows.WSAENOBUFS, windows.WSAEADDRNOTAVAIL, windows.WSAEACCES, windows.WSAENETUNREACH,
	windows.WSAENETDOWN, windows.WSAEAFNOSUPPORT, windows.WSAEINVAL,
}
