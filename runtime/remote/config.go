package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// HostKeyPolicy says what to do about a host's key.
type HostKeyPolicy string

const (
	// Strict wants the key in a known_hosts file. It is the default.
	Strict HostKeyPolicy = "strict"
	// AcceptNew takes the key of a host seen for the first time and writes it to the first known_hosts
	// file; a key that has changed is refused.
	AcceptNew HostKeyPolicy = "accept-new"
	// Insecure takes any key: whoever sits in between can read and change everything.
	Insecure HostKeyPolicy = "insecure"
)

// ParseHostKeyPolicy reads the name of a policy.
func ParseHostKeyPolicy(s string) (HostKeyPolicy, error) {
	switch p := HostKeyPolicy(s); p {
	case Strict, AcceptNew, Insecure:
		return p, nil
	}
	return "", fmt.Errorf("unknown host key policy %q: use %s, %s or %s", s, Strict, AcceptNew, Insecure)
}

// SSHConfig says how to reach a host and log in. Host is needed, the rest has defaults.
type SSHConfig struct {
	// Host is an IP address or a name.
	Host string
	// Port is 22 if 0.
	Port int
	// User is root if "".
	User string

	// Keys are paths of private key files, offered in this order and before the agent's.
	Keys []string
	// Passphrase is asked for that of an encrypted key file, once the host wants the key. May be nil.
	Passphrase func(ctx context.Context, path string) (string, error)
	// AgentSocket is the path of an SSH agent's socket; "" for none. An agent that does not answer is
	// left out.
	AgentSocket string
	// Password is asked at most once, and only if keys did not do: for the methods password and
	// keyboard-interactive. May be nil.
	Password func(ctx context.Context) (string, error)

	// HostKeyPolicy is Strict if "".
	HostKeyPolicy HostKeyPolicy
	// KnownHosts are known_hosts files; those that do not exist are skipped. AcceptNew writes to the
	// first, making it if need be.
	KnownHosts []string

	// Timeout is how long a host may be silent while a connection is made; 15 s if 0. The time that a
	// person takes to answer Password does not count.
	Timeout time.Duration
	// KeepAlive is the pause between questions whether the host is still there; three of them in
	// silence and the connection is closed. 15 s if 0.
	KeepAlive time.Duration
	// MaxSessions is how many sessions the host allows at a time on a connection (sshd's MaxSessions),
	// 10 if 0. Two of them are kept for killing commands.
	MaxSessions int

	// Jump are hosts to go through, the first being the one that can be reached directly. Their own Jump
	// must be empty.
	Jump []SSHConfig
	// DialContext makes TCP connections, instead of a net.Dialer, to the first host on the way.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// address is host:port.
func (c SSHConfig) address() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// name is what errors call the host.
func (c SSHConfig) name() string {
	if c.Port == 22 {
		return c.Host
	}
	return c.address()
}

// complete fills in defaults and refuses what cannot work.
func (c SSHConfig) complete() (SSHConfig, error) {
	c.Host = strings.Trim(c.Host, "[]")
	if c.Host == "" {
		return c, errors.New("connecting over SSH: no host given")
	}
	if c.Port == 0 {
		c.Port = 22
	}
	if c.Port < 0 || c.Port > 65535 {
		return c, fmt.Errorf("connecting to %s: port %d is not between 1 and 65535", c.Host, c.Port)
	}
	if c.User == "" {
		c.User = "root"
	}
	if c.HostKeyPolicy == "" {
		c.HostKeyPolicy = Strict
	}
	if _, err := ParseHostKeyPolicy(string(c.HostKeyPolicy)); err != nil {
		return c, fmt.Errorf("connecting to %s: %w", c.Host, err)
	}
	if c.HostKeyPolicy == AcceptNew && len(c.KnownHosts) == 0 {
		return c, fmt.Errorf("connecting to %s: host key policy %s needs a known_hosts file to write to", c.Host, AcceptNew)
	}
	if c.Timeout <= 0 {
		c.Timeout = 15 * time.Second
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = 15 * time.Second
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = 10
	}
	return c, nil
}
