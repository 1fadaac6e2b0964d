package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// token is a shared secret in any of its forms: a password alone, K10<hash of the CA>::user:password, or
// a bootstrap token id.secret, with or without K10<hash>:: in front.
type token struct {
	caHash    string // hex, or empty
	user      string // server or node, or empty
	password  string
	bootstrap string // id.secret
}

var (
	bootstrapToken = regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)
	hexHash        = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func parseToken(text string) (token, error) {
	var t token
	rest := text
	if strings.HasPrefix(text, "K10") {
		hash, credentials, ok := strings.Cut(text[3:], "::")
		if !ok || !hexHash.MatchString(hash) {
			return token{}, fmt.Errorf("invalid token CA hash length")
		}
		t.caHash, rest = hash, credentials
		if bootstrapToken.MatchString(rest) {
			t.bootstrap = rest
			return t, nil
		}
		user, password, ok := strings.Cut(rest, ":")
		if !ok || user == "" || password == "" {
			return token{}, fmt.Errorf("invalid token format")
		}
		t.user, t.password = user, password
		return t, nil
	}
	switch {
	case bootstrapToken.MatchString(rest):
		t.bootstrap = rest
	case strings.Contains(rest, "::") || strings.ContainsAny(rest, " \t\n"):
		return token{}, fmt.Errorf("invalid token format")
	default:
		t.password = rest
	}
	return t, nil
}

func (t token) empty() bool { return t.password == "" && t.bootstrap == "" }

// readToken reads --NAME or the file of --NAME-file.
func readToken(s settings, name string) (token, error) {
	text := s.get(name)
	if file := s.get(name + "-file"); text == "" && file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return token{}, err
		}
		text = strings.TrimSpace(string(data))
		if text == "" {
			return token{}, fmt.Errorf("%s is empty", file)
		}
	}
	if text == "" {
		return token{}, nil
	}
	t, err := parseToken(text)
	if err != nil {
		return token{}, fmt.Errorf("failed to parse %s: %w", name, err)
	}
	return t, nil
}

func fullToken(caHash, user, password string) string {
	return "K10" + caHash + "::" + user + ":" + password
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// randomBootstrapToken is id.secret.
func randomBootstrapToken() string {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyz"
	b := make([]byte, 22)
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b[:6]) + "." + string(b[6:])
}
