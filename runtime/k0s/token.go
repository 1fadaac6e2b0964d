package k0s

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// A join token of k0s is a kubeconfig (client-go's api/v1.Config), packed by gzip and written in base64.
// Its user's token is a bootstrap token, "ID.SECRET".
type joinToken struct {
	id   string
	text []byte // for tokenFile
}

// tokenLife is how long a token may be used: as long as a join may take, and the wait for its turn.
const tokenLife = "30m"

// maxToken bounds what is read of a token into memory.
const maxToken = 1 << 20

var bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.[a-z0-9]{16}$`)

var errToken = errors.New("it is no join token of k0s") // whatever is wrong with it, its text is a secret

func unpackToken(text []byte) (map[string]any, error) {
	packed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, errToken
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, errToken
	}
	data, err := io.ReadAll(io.LimitReader(r, maxToken))
	if err != nil {
		return nil, errToken
	}
	var doc map[string]any
	if yaml.Unmarshal(data, &doc) != nil {
		return nil, errToken
	}
	return doc, nil
}

func packToken(doc map[string]any) ([]byte, error) {
	data, err := yaml.Marshal(doc)
	if err != nil {
		return nil, errToken
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(data); err != nil {
		return nil, errToken
	}
	if err := w.Close(); err != nil {
		return nil, errToken
	}
	return append([]byte(base64.StdEncoding.EncodeToString(packed.Bytes())), '\n'), nil
}

// one is the only mapping of a kubeconfig's list, such as the cluster in clusters.
func one(doc map[string]any, list, name string) map[string]any {
	items, _ := doc[list].([]any)
	if len(items) != 1 {
		return nil
	}
	item, _ := items[0].(map[string]any)
	found, _ := item[name].(map[string]any)
	return found
}

// tokenID is the ID in a token; "" if it is none.
func tokenID(doc map[string]any) string {
	secret, _ := one(doc, "users", "user")["token"].(string)
	if m := bootstrapToken.FindStringSubmatch(secret); m != nil {
		return m[1]
	}
	return ""
}

// redirect makes a token name another server than the control plane that made it, or than a load balancer
// that knows nothing of port 9443.
func redirect(text []byte, server string) (joinToken, error) {
	doc, err := unpackToken(text)
	if err != nil {
		return joinToken{}, err
	}
	cluster := one(doc, "clusters", "cluster")
	t := joinToken{id: tokenID(doc)}
	if cluster == nil || t.id == "" {
		return joinToken{}, errToken
	}
	cluster["server"] = server
	t.text, err = packToken(doc)
	return t, err
}

// noID is the ID of the token that opens nothing.
const noID = "000000"

// spentToken is a token that k0s can read and that opens nothing. k0s wants to find one when it starts, also
// long after it has joined.
func spentToken() ([]byte, error) {
	named := func(key string, v map[string]any) []any { return []any{map[string]any{"name": "k0s", key: v}} }
	return packToken(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "k0s",
		"clusters": named("cluster", map[string]any{"server": "https://" + runtime.APIServerName + ":6443"}),
		"contexts": named("context", map[string]any{"cluster": "k0s", "user": "k0s"}),
		"users":    named("user", map[string]any{"token": noID + ".0000000000000000"}),
	})
}

// createToken has First make a token for a role of k0s, for a host that reaches the cluster by server.
func createToken(ctx context.Context, c *runtime.Cluster, role, server string) (joinToken, error) {
	out, err := remote.Output(ctx, c.First().Runner, program, "token", "create", "--role", role, "--expiry", tokenLife)
	if err != nil {
		return joinToken{}, err
	}
	t, err := redirect(out, server)
	if err != nil {
		return joinToken{}, fmt.Errorf("reading what `k0s token create` made: %w", err)
	}
	return t, nil
}

// controllerToken lets one control plane join.
func controllerToken(ctx context.Context, c *runtime.Cluster) (joinToken, error) {
	return createToken(ctx, c, "controller", "https://"+net.JoinHostPort(c.First().IP, joinPort))
}

// workerToken is made once for all workers that join in a run, when the first of them needs it. It names
// the API as every worker knows it for good, and no control plane that may go.
type workerToken struct {
	mu sync.Mutex
	joinToken
}

func (t *workerToken) get(ctx context.Context, c *runtime.Cluster) (joinToken, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.id != "" {
		return t.joinToken, nil
	}
	made, err := createToken(ctx, c, "worker", "https://"+c.APIEndpoint())
	if err == nil {
		t.joinToken = made
	}
	return made, err
}

func putToken(ctx context.Context, n *runtime.Node, t joinToken) error {
	_, err := n.Host.Put(ctx, []runtime.File{{Path: tokenFile, Mode: 0o600, Data: t.text}})
	return err
}

// spend makes the token on a host that has joined worthless, and puts another in its place.
func spend(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	text, err := n.Read(ctx, tokenFile)
	if err != nil {
		return err
	}
	id := ""
	if doc, err := unpackToken(text); err == nil { // else it opens nothing
		id = tokenID(doc)
	}
	if id == noID {
		return nil
	}
	if id != "" && n.Role == runtime.Master { // that of workers is others' too
		if err := invalidate(ctx, c, id); err != nil {
			return err
		}
	}
	spent, err := spentToken()
	if err != nil {
		return err
	}
	return putToken(ctx, n, joinToken{text: spent})
}

// invalidate makes tokens worthless. Those that are so already do not matter to k0s.
func invalidate(ctx context.Context, c *runtime.Cluster, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	return c.First().Runner.Run(ctx, remote.Cmd{Args: append([]string{program, "token", "invalidate"}, ids...)})
}
