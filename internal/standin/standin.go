// Package standin runs the real programs of Kubernetes, etcd and containerd as child processes, the
// way k3s and k0s do: the control plane as processes on a server, containerd and kubelet on every node,
// below paths that the caller chooses. testdata/fake-k3s and testdata/fake-k0s are built on it; nothing
// of keg itself uses it.
//
// The programs come as a payload behind the caller's own executable (AppendPayload, OpenPayload), so that a
// stand-in is one file as the real ones are.
//
// A server is started as
//
//	s := standin.NewSupervisor(bin, os.Stderr)
//	defer s.Shutdown()
//	etcd.Start(ctx, s)              // single member, or a learner that waits for its promotion
//	apiServer.Start(ctx, s)         // waits for /readyz
//	controllerManager.Start(ctx, s)
//	scheduler.Start(ctx, s)
//
// and a node as containerd.Start, Import of its images, kubelet.Start and Network.Run. Every Start returns
// when the program answers; from then on it is started again whenever it ends, until Shutdown.
package standin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// TLSFiles name the PEM files of one end of a TLS connection: CA is what the other end is verified with.
type TLSFiles struct {
	CA, Cert, Key string
}

// Until calls f every interval until it returns nil. When ctx ends it returns the cause with f's last error.
func Until(ctx context.Context, interval time.Duration, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(interval):
		}
	}
}

// Notify tells systemd something, such as READY=1. An empty socket (of $NOTIFY_SOCKET) means that nobody listens.
func Notify(ctx context.Context, socket, state string) error {
	if socket == "" {
		return nil
	}
	if strings.HasPrefix(socket, "@") {
		socket = "\x00" + socket[1:]
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", socket)
	if err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	return nil
}
