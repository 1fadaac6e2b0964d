package main

import (
	"net"
	"os"
)

// notifyReady tells systemd that the service is up: sd_notify(3), for units of Type=notify. Without
// systemd it does nothing.
func notifyReady(net.Addr) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	if name[0] == '@' { // an abstract socket
		name = "\x00" + name[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte("READY=1"))
}
