package remote

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrUnreachable says that no connection to a host came about: nobody answers, the name does not
	// resolve, or the answer took too long. The text names the address.
	ErrUnreachable = errors.New("host unreachable")
	// ErrDisconnected says that the connection was lost while a command ran: nobody knows how it ended.
	ErrDisconnected = errors.New("connection lost")
	// ErrPassphrase says that a key file is encrypted and its passphrase is missing or wrong.
	ErrPassphrase = errors.New("passphrase missing or wrong")
)

// HostKeyError says that a host is not, or not surely, the one it was before.
type HostKeyError struct {
	// Host is host:port.
	Host string
	// Known is the key on record, such as "ssh-ed25519 SHA256:...", or "" if there is none.
	Known string
	// Got is the key the host showed, in the same form.
	Got string
	// File and Line say where Known stands; without Known, File is where it was looked for.
	File string
	Line int
	// Revoked says that the record forbids the key.
	Revoked bool
}

// Error names the host, both keys and where the known one is written.
func (e *HostKeyError) Error() string {
	switch {
	case e.Revoked:
		return fmt.Sprintf("%s: host key %s is revoked in %s:%d", e.Host, e.Got, e.File, e.Line)
	case e.Known != "":
		return fmt.Sprintf("%s: host key changed: %s:%d has %s, the host shows %s", e.Host, e.File, e.Line, e.Known, e.Got)
	case e.File != "":
		return fmt.Sprintf("%s: unknown host key %s: not in %s", e.Host, e.Got, e.File)
	}
	return fmt.Sprintf("%s: unknown host key %s", e.Host, e.Got)
}

// AuthError says that a host let nobody in.
type AuthError struct {
	// Host is host:port.
	Host string
	User string
	// Tried lists what was offered, in order, such as "key /root/.ssh/id_ed25519", "password".
	Tried []string
	// Err is what the SSH library said.
	Err error
}

// Error names the host, the user and what was tried.
func (e *AuthError) Error() string {
	tried := "nothing to log in with"
	if len(e.Tried) > 0 {
		tried = "tried " + strings.Join(e.Tried, ", ")
	}
	return fmt.Sprintf("%s: login as %s refused: %s", e.Host, e.User, tried)
}

// Unwrap gives the SSH library's error.
func (e *AuthError) Unwrap() error { return e.Err }

// SudoError says that sudo did not run a command.
type SudoError struct {
	Host string
	User string
	// Wrong says that a password was given and refused.
	Wrong bool
	// Text is what sudo said, if anything.
	Text string
}

// Error names the host, the user and what sudo said.
func (e *SudoError) Error() string {
	user := e.User
	if user == "" {
		user = "the user"
	}
	text := "sudo refused " + user
	if e.Wrong {
		text = "sudo refused the password of " + user
	}
	if e.Host != "" {
		text = e.Host + ": " + text
	}
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}
