package k3s

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/clusterimage/keg/runtime"
)

// secrets are what lets hosts into a cluster. They are on hosts alone, for root to read.
type secrets struct {
	server, agent string // passwords
	hash          string // of the CA; "" before the cluster is made
}

// newPassword is 32 random bytes, as hex.
func newPassword() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// tokenForm is a token with the hash of the CA: K10HASH::USER:PASSWORD.
var tokenForm = regexp.MustCompile(`^K10([0-9a-f]{64})::([a-z]+):(\S+)$`)

// password is what a token of either form holds; hash is "" where it is a password alone.
func password(token []byte) (password, hash string) {
	text := strings.TrimSpace(string(token))
	if m := tokenForm.FindStringSubmatch(text); m != nil {
		return m[3], m[1]
	}
	return text, ""
}

// serverToken and agentToken are for hosts that join: by the hash they know the cluster for the right one.
func (s secrets) serverToken() []byte { return []byte("K10" + s.hash + "::server:" + s.server + "\n") }
func (s secrets) agentToken() []byte  { return []byte("K10" + s.hash + "::node:" + s.agent + "\n") }

// files are the secrets of a server.
func (s secrets) files() []runtime.File {
	server := []byte(s.server + "\n") // the first of all has no CA yet
	if s.hash != "" {
		server = s.serverToken()
	}
	return []runtime.File{
		{Path: tokenFile, Mode: 0o600, Data: server},
		{Path: agentTokenFile, Mode: 0o600, Data: []byte(s.agent + "\n")},
	}
}

// errNoSecrets says that a server has none of the tokens that keg gave it.
var errNoSecrets = errors.New("finding the cluster's tokens: " + tokenFile + " or " + agentTokenFile + " is not there any more")

// keptSecrets are those on a server; empty ones if it has none.
func keptSecrets(ctx context.Context, n *runtime.Node) (secrets, error) {
	var s secrets
	server, err := n.Read(ctx, tokenFile)
	if err != nil {
		return s, err
	}
	agent, err := n.Read(ctx, agentTokenFile)
	if err != nil {
		return s, err
	}
	s.server, _ = password(server)
	s.agent, _ = password(agent)
	return s, nil
}

// joinSecrets are those that First has, with the hash of its CA.
func joinSecrets(ctx context.Context, c *runtime.Cluster) (secrets, error) {
	s, err := keptSecrets(ctx, c.First())
	if err != nil {
		return s, err
	}
	if s.server == "" || s.agent == "" {
		return s, errNoSecrets
	}
	full, err := c.First().Read(ctx, fullToken)
	if err != nil {
		return s, err
	}
	if _, s.hash = password(full); s.hash == "" {
		return s, fmt.Errorf("reading %s: it is no token with the hash of a CA", fullToken)
	}
	return s, nil
}
