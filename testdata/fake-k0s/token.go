package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/internal/standin"
)

const (
	roleWorker     = "worker"
	roleController = "controller"
	secretsPath    = "/api/v1/namespaces/kube-system/secrets"
)

// userOf is the name of the kubeconfig's user, by which k0s tells the roles of tokens apart.
var userOf = map[string]string{roleWorker: "kubelet-bootstrap", roleController: "controller-bootstrap"}

var tokenPattern = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// kubeconfig is one with a single context, as tokens have it.
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Clusters       []namedCluster `json:"clusters"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
	Kind           string         `json:"kind"`
	Users          []namedUser    `json:"users"`
}

type namedCluster struct {
	Cluster struct {
		CA     []byte `json:"certificate-authority-data"`
		Server string `json:"server"`
	} `json:"cluster"`
	Name string `json:"name"`
}

type namedContext struct {
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
	Name string `json:"name"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		Token string `json:"token,omitempty"`
		Cert  []byte `json:"client-certificate-data,omitempty"`
		Key   []byte `json:"client-key-data,omitempty"`
	} `json:"user"`
}

func newKubeconfig(cluster, context, user, server string, ca []byte) *kubeconfig {
	k := &kubeconfig{APIVersion: "v1", Kind: "Config", CurrentContext: context, Clusters: make([]namedCluster, 1), Contexts: make([]namedContext, 1), Users: make([]namedUser, 1)}
	k.Clusters[0].Name, k.Clusters[0].Cluster.CA, k.Clusters[0].Cluster.Server = cluster, ca, server
	k.Contexts[0].Name, k.Contexts[0].Context.Cluster, k.Contexts[0].Context.User = context, cluster, user
	k.Users[0].Name = user
	return k
}

// joinToken is what a token says.
type joinToken struct {
	role, server, id, secret string
	ca                       []byte
}

func (t *joinToken) bearer() string { return t.id + "." + t.secret }

// encode makes one line of it: base64 of gzip of a kubeconfig.
func (t *joinToken) encode() (string, error) {
	k := newKubeconfig("k0s", "k0s", userOf[t.role], t.server, t.ca)
	k.Users[0].User.Token = t.bearer()
	text, err := yaml.Marshal(k)
	if err != nil {
		return "", err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	_, err = w.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(packed.Bytes()), nil
}

// decodeToken reads one that is for role.
func decodeToken(text, role string) (*joinToken, error) {
	packed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("failed to decode token: %w", err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("failed to decode token: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("failed to decode token: %w", err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("failed to load kubeconfig from join token: %w", err)
	}
	if len(k.Clusters) != 1 || len(k.Contexts) != 1 || len(k.Users) != 1 {
		return nil, errors.New("failed to load kubeconfig from join token: not one cluster, one context and one user")
	}
	if actual := k.Contexts[0].Context.User; actual != userOf[role] {
		return nil, fmt.Errorf("wrong token type %s, expected type: %s", actual, userOf[role])
	}
	parts := tokenPattern.FindStringSubmatch(k.Users[0].User.Token)
	if parts == nil {
		return nil, errors.New("the token in the join token is malformed")
	}
	return &joinToken{role: role, server: k.Clusters[0].Cluster.Server, id: parts[1], secret: parts[2], ca: k.Clusters[0].Cluster.CA}, nil
}

// tokenText finds the token: an argument, K0S_TOKEN, or a file that must not be empty.
func tokenText(argument, file string) (string, error) {
	env := os.Getenv("K0S_TOKEN")
	sources := 0
	for _, s := range []string{argument, file, env} {
		if s != "" {
			sources++
		}
	}
	if sources > 1 {
		return "", errors.New("you can only pass one token source: either as a CLI argument, via '--token-file [path]', or via the K0S_TOKEN environment variable")
	}
	if argument != "" || env != "" {
		return argument + env, nil
	}
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("token file %q not found: obtain a new token via \"k0s token create ...\" and store it in the file", file)
	case err != nil:
		return "", fmt.Errorf("failed to read token file: %w", err)
	case len(data) == 0:
		return "", fmt.Errorf("token file %q is empty: obtain a new token via \"k0s token create ...\" and store it in the file", file)
	}
	return string(data), nil
}

// secret is a bootstrap token in the API.
type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]any    `json:"metadata"`
	Type       string            `json:"type"`
	Data       map[string][]byte `json:"data"`
}

const bootstrapSecret = "bootstrap.kubernetes.io/token"

func random(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	for i, b := range raw {
		raw[i] = letters[int(b)%len(letters)]
	}
	return string(raw)
}

// createToken makes a token and the Secret of it; an expiry of 0 is never.
func createToken(ctx context.Context, v *vars, config *ClusterConfig, role string, expiry time.Duration) (string, error) {
	caFile := filepath.Join(v.pki, "ca.crt")
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return "", fmt.Errorf("failed to read cluster CA from %q: %w; check if the control plane is initialized on this node", caFile, err)
	}
	t := &joinToken{role: role, id: random(6), secret: random(16), ca: ca}
	data := map[string][]byte{"token-id": []byte(t.id), "token-secret": []byte(t.secret)}
	if role == roleWorker {
		t.server = config.Spec.API.url(config.Spec.API.Port)
		data["description"] = []byte("Worker bootstrap token generated by k0s")
		data["usage-bootstrap-authentication"] = []byte("true")
	} else {
		t.server = config.Spec.API.url(config.Spec.API.K0sAPIPort)
		data["description"] = []byte("Controller bootstrap token generated by k0s")
		data["usage-controller-join"] = []byte("true")
		data["usage-bootstrap-controller-join"] = []byte("true")
	}
	if expiry > 0 {
		data["expiration"] = []byte(time.Now().Add(expiry).UTC().Format(time.RFC3339))
	}
	client, err := adminClient(v)
	if err != nil {
		return "", err
	}
	err = client.Create(ctx, secretsPath, secret{
		APIVersion: "v1", Kind: "Secret", Type: bootstrapSecret, Data: data,
		Metadata: map[string]any{"name": "bootstrap-token-" + t.id, "namespace": "kube-system"},
	})
	if err != nil {
		return "", err
	}
	return t.encode()
}

// tokens lists the Secrets of tokens.
func tokens(ctx context.Context, client *standin.Client) ([]secret, error) {
	var list struct{ Items []secret }
	if err := client.Get(ctx, secretsPath+"?fieldSelector=type%3D"+strings.ReplaceAll(bootstrapSecret, "/", "%2F"), &list); err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (s *secret) role() string {
	if string(s.Data["usage-bootstrap-authentication"]) == "true" {
		return roleWorker
	}
	return roleController
}

// mayJoin says whether a bearer token is one that lets a controller join: known, not expired, for this use.
func mayJoin(ctx context.Context, client *standin.Client, bearer string) bool {
	parts := tokenPattern.FindStringSubmatch(bearer)
	if parts == nil {
		return false
	}
	var s secret
	if err := client.Get(ctx, secretsPath+"/bootstrap-token-"+parts[1], &s); err != nil {
		return false
	}
	return s.valid(parts[2]) && string(s.Data["usage-controller-join"]) == "true"
}

// valid: an expired token is no token, and neither is one whose expiry nobody can read.
func (s *secret) valid(tokenSecret string) bool {
	if text, ok := s.Data["expiration"]; ok {
		when, err := time.Parse(time.RFC3339, string(text))
		if err != nil || !time.Now().Before(when) {
			return false
		}
	}
	return string(s.Data["token-secret"]) == tokenSecret
}

// invalidateToken deletes the Secret; that there is none is fine: k0s says "deleted successfully" then, too.
func invalidateToken(ctx context.Context, client *standin.Client, id string) error {
	return client.Delete(ctx, secretsPath+"/bootstrap-token-"+id)
}

// adminClient speaks to this host's API as an administrator.
func adminClient(v *vars) (*standin.Client, error) {
	if _, err := os.Stat(v.adminConf); err != nil {
		return nil, fmt.Errorf("failed to load kubeconfig: %w", err)
	}
	return standin.KubeconfigClient(v.adminConf, "")
}
