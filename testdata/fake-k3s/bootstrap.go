package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/internal/standin"
)

// bootstrapData are the files that servers share: path below server/ to content.
type bootstrapData map[string][]byte

var errOtherToken = errors.New("bootstrap data already found and encrypted with different token")

func (c *config) readBootstrap() (bootstrapData, error) {
	data := bootstrapData{}
	for _, name := range bootstrapFiles() {
		content, err := os.ReadFile(c.path("server", name))
		if os.IsNotExist(err) && strings.HasPrefix(name, "cred/encryption") {
			continue
		}
		if err != nil {
			return nil, err
		}
		data[name] = content
	}
	return data, nil
}

func (c *config) writeBootstrap(data bootstrapData) error {
	for _, name := range bootstrapFiles() {
		content, ok := data[name]
		if !ok {
			continue
		}
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".crt") {
			mode = 0o644
		}
		file := c.path("server", name)
		if err := os.MkdirAll(c.path("server", strings.Split(name, "/")[0]), 0o700); err != nil {
			return err
		}
		if err := write(file, string(content), mode); err != nil {
			return err
		}
	}
	return nil
}

// bootstrapKey is where the data lie in etcd for a token.
func bootstrapKey(password string) string {
	sum := sha256.Sum256([]byte(password))
	return "/bootstrap/" + hex.EncodeToString(sum[:])[:12]
}

// encrypt and decrypt: AES-GCM with a key from the token by PBKDF2; base64 of salt, nonce, sealed.
func encrypt(password string, data []byte) (string, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	seal, err := aead(password, salt)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, seal.NonceSize())
	_, _ = rand.Read(nonce)
	return base64.StdEncoding.EncodeToString(append(append(salt, nonce...), seal.Seal(nil, nonce, data, nil)...)), nil
}

func decrypt(password, text string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) < 28 {
		return nil, errors.New("bootstrap data are damaged")
	}
	seal, err := aead(password, raw[:16])
	if err != nil {
		return nil, err
	}
	data, err := seal.Open(nil, raw[16:28], raw[28:], nil)
	if err != nil {
		return nil, errOtherToken
	}
	return data, nil
}

func aead(password string, salt []byte) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha256.New, password, salt, 4096, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// keyStore is where bootstrap data are kept: etcd.
type keyStore interface {
	Get(ctx context.Context, prefix string) (map[string][]byte, error)
	Put(ctx context.Context, key, value string) error
	Delete(ctx context.Context, key string) error
}

// loadBootstrap reads the cluster's data; nil if there are none yet.
func loadBootstrap(ctx context.Context, store keyStore, password string) (bootstrapData, error) {
	all, err := store.Get(ctx, "/bootstrap/")
	if err != nil || len(all) == 0 {
		return nil, err
	}
	text, ok := all[bootstrapKey(password)]
	if !ok {
		return nil, errOtherToken
	}
	plain, err := decrypt(password, string(text))
	if err != nil {
		return nil, err
	}
	var data bootstrapData
	return data, json.Unmarshal(plain, &data)
}

func saveBootstrap(ctx context.Context, store keyStore, password string, data bootstrapData) error {
	plain, err := json.Marshal(data)
	if err != nil {
		return err
	}
	text, err := encrypt(password, plain)
	if err != nil {
		return err
	}
	return store.Put(ctx, bootstrapKey(password), text)
}

// reconcile compares the files of this server with those of the cluster.
func (c *config) reconcile(ctx context.Context, store keyStore, password string) error {
	stored, err := loadBootstrap(ctx, store, password)
	if err != nil {
		return fmt.Errorf("failed to reconcile with local datastore: %w", err)
	}
	own, err := c.readBootstrap()
	if err != nil {
		return err
	}
	if stored == nil {
		return saveBootstrap(ctx, store, password, own)
	}
	for name, content := range stored {
		if name != "cred/passwd" && !bytes.Equal(own[name], content) {
			return fmt.Errorf("%s newer than datastore and could cause a cluster outage. Remove the file(s) from disk and restart to be recreated from datastore.", c.path("server", name)) //nolint:staticcheck // the words of the real one
		}
	}
	return nil
}

// passwords of the supervisor: what joins servers, and what joins agents.
type passwords struct{ server, node string }

func (c *config) readPasswords() (passwords, error) {
	data, err := os.ReadFile(c.path("server", "cred", "passwd"))
	if err != nil {
		return passwords{}, err
	}
	var p passwords
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ",")
		if len(f) < 3 {
			return passwords{}, errors.New("passwd file is damaged")
		}
		switch f[1] {
		case "server":
			p.server = f[0]
		case "node":
			p.node = f[0]
		}
	}
	return p, nil
}

func (c *config) writePasswords(p passwords) error {
	if err := os.MkdirAll(c.path("server", "cred"), 0o700); err != nil {
		return err
	}
	return writeSecret(c.path("server", "cred", "passwd"), p.server+",server,server,k3s:server\n"+p.node+",node,node,k3s:agent\n")
}

// writeTokens writes server/token, node-token and agent-token.
func (c *config) writeTokens(caHash string, p passwords) error {
	errs := []error{
		writeSecret(c.path("server", "token"), fullToken(caHash, "server", p.server)+"\n"),
		writeSecret(c.path("server", "agent-token"), fullToken(caHash, "node", p.node)+"\n"),
	}
	_ = os.Remove(c.path("server", "node-token"))
	return errors.Join(append(errs, os.Symlink(c.path("server", "token"), c.path("server", "node-token")))...)
}

// encryptionConfig makes the configuration for secrets at rest.
func (c *config) encryptionConfig() error {
	file := c.path("server", "cred", "encryption-config.json")
	if !c.bool("secrets-encryption") || exists(file) {
		return nil
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	provider := c.or("secrets-encryption-provider", "aescbc")
	data, err := json.Marshal(map[string]any{
		"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
		"resources": []any{map[string]any{"resources": []string{"secrets"}, "providers": []any{
			map[string]any{provider: map[string]any{"keys": []any{map[string]string{"name": provider + "key", "secret": base64.StdEncoding.EncodeToString(key)}}}},
			map[string]any{"identity": map[string]any{}},
		}}},
	})
	if err != nil {
		return err
	}
	return writeSecret(file, string(data))
}

func parseMode(text string) (os.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil {
		return 0, fmt.Errorf("invalid write-kubeconfig-mode %q", text)
	}
	return os.FileMode(mode), nil
}

var _ keyStore = standin.EtcdClient{}
