package server

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/net/netutil"
)

// ErrNotLoopback refuses an address that strangers reach although nobody is
// asked who they are.
var ErrNotLoopback = errors.New("not a loopback address")

// listen opens a TCP listener on addr. Unless anywhere is set, addr must be
// loopback: without authentication, whoever reaches the port may use the
// model and load others.
func listen(what, addr string, anywhere bool, maxConns int) (net.Listener, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s address %q: %w", what, addr, err)
	}
	// An empty host has a nil IP and stands for every interface.
	if !anywhere && !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%s address %q: %w, and there is no authentication: whoever reaches it could use this server; "+
			"listen on 127.0.0.1 or [::1], or allow it with --insecure", what, addr, ErrNotLoopback)
	}
	lis, err := net.ListenTCP("tcp", tcp)
	if err != nil {
		return nil, fmt.Errorf("%s address %q: %w", what, addr, err)
	}
	return netutil.LimitListener(lis, maxConns), nil
}
