package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// login offers one host's credentials and remembers which it did.
type login struct {
	ctx    context.Context //nolint:containedctx // the SSH library's callbacks have none
	cfg    SSHConfig
	keys   []ssh.Signer
	tried  []string
	paused func(func() error) error // runs what waits for a person
	// password is asked once.
	asked    bool
	password string
	// err is that of a callback: the reason why logging in stopped.
	err error
}

// methods are what to offer, in order.
func (l *login) methods() []ssh.AuthMethod {
	var out []ssh.AuthMethod
	if len(l.keys) > 0 || l.cfg.AgentSocket != "" {
		out = append(out, ssh.PublicKeysCallback(l.signers))
	}
	if l.cfg.Password != nil {
		out = append(out, ssh.PasswordCallback(func() (string, error) { return l.ask("password") }))
		out = append(out, ssh.KeyboardInteractive(l.answer))
	}
	return out
}

// readKeys reads the key files; those that are encrypted stay so until the host wants them.
func (l *login) readKeys() error {
	for _, path := range l.cfg.Keys {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading SSH key: %w", err)
		}
		signer, err := ssh.ParsePrivateKey(text)
		var locked *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &locked) && locked.PublicKey != nil:
			signer = &lockedKey{login: l, path: path, text: text, public: locked.PublicKey}
		case errors.As(err, &locked):
			if signer, err = l.unlock(path, text); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("reading SSH key %s: %w", path, err)
		}
		l.keys = append(l.keys, &namedKey{Signer: signer, login: l, name: "key " + path})
	}
	return nil
}

// signers gives the keys of files and agent. The agent's connection lives as long as the login.
func (l *login) signers() ([]ssh.Signer, error) {
	out := append([]ssh.Signer(nil), l.keys...)
	if l.cfg.AgentSocket == "" {
		return out, nil
	}
	var d net.Dialer
	conn, err := d.DialContext(l.ctx, "unix", l.cfg.AgentSocket)
	if err != nil {
		l.tried = append(l.tried, "agent (not answering)")
		return out, nil
	}
	context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	held, err := agent.NewClient(conn).Signers()
	if err != nil {
		l.tried = append(l.tried, "agent (not answering)")
		return out, nil
	}
	for _, s := range held {
		out = append(out, &namedKey{Signer: s, login: l, name: "agent key " + ssh.FingerprintSHA256(s.PublicKey())})
	}
	return out, nil
}

// ask gets the password, once.
func (l *login) ask(method string) (string, error) {
	l.tried = append(l.tried, method)
	if l.asked {
		return l.password, nil
	}
	l.asked = true
	err := l.paused(func() (err error) {
		l.password, err = l.cfg.Password(l.ctx)
		return err
	})
	if err != nil {
		l.err = fmt.Errorf("getting the password for %s: %w", l.cfg.name(), err)
	}
	return l.password, l.err
}

// answer is for hosts that ask questions: one hidden one is taken to be for the password.
func (l *login) answer(_, _ string, questions []string, echos []bool) ([]string, error) {
	if len(questions) == 0 {
		return nil, nil
	}
	if len(questions) > 1 || echos[0] {
		l.err = fmt.Errorf("logging in to %s: it asks %q, keg can only give a password", l.cfg.name(), strings.Join(questions, " "))
		return nil, l.err
	}
	password, err := l.ask("keyboard-interactive")
	return []string{password}, err
}

// unlock decrypts a key file.
func (l *login) unlock(path string, text []byte) (ssh.Signer, error) {
	if l.cfg.Passphrase == nil {
		return nil, fmt.Errorf("reading SSH key %s: %w", path, ErrPassphrase)
	}
	var passphrase string
	err := l.paused(func() (err error) {
		passphrase, err = l.cfg.Passphrase(l.ctx, path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("getting the passphrase of %s: %w", path, err)
	}
	signer, err := ssh.ParsePrivateKeyWithPassphrase(text, []byte(passphrase))
	if err != nil {
		return nil, fmt.Errorf("reading SSH key %s: %w: %w", path, ErrPassphrase, err)
	}
	return signer, nil
}

// namedKey notes that it was offered.
type namedKey struct {
	ssh.Signer
	login *login
	name  string
	noted bool
}

// PublicKey is asked for whenever the key is offered.
func (k *namedKey) PublicKey() ssh.PublicKey {
	if !k.noted {
		k.noted = true
		k.login.tried = append(k.login.tried, k.name)
	}
	return k.Signer.PublicKey()
}

// SignWithAlgorithm is what RSA keys need for SHA-2.
func (k *namedKey) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if s, ok := k.Signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(r, data, algorithm)
	}
	return k.Signer.Sign(r, data)
}

// lockedKey is an encrypted key file: it can be offered as it is, signing needs the passphrase.
type lockedKey struct {
	login  *login
	path   string
	text   []byte
	public ssh.PublicKey
	open   ssh.Signer
}

// PublicKey stands in the file in the clear.
func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

// Sign implements ssh.Signer.
func (k *lockedKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(r, data, "")
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (k *lockedKey) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.open == nil {
		signer, err := k.login.unlock(k.path, k.text)
		if err != nil {
			k.login.err = err
			return nil, err
		}
		k.open = signer
	}
	if s, ok := k.open.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(r, data, algorithm)
	}
	return k.open.Sign(r, data)
}
