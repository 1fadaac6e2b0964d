package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Login checks user and password against the registry ("reg.example.com:5000", "docker.io") and keeps
// them in configDir/config.json, readable by its owner only, or with the credential helper named
// there. Nothing is kept if the registry refuses them (ErrUnauthorized) or cannot be asked.
func Login(ctx context.Context, c *Client, registry, user, password, configDir string) error {
	cf, err := loadConfig(configDir)
	if err != nil {
		return err
	}
	if err := c.verify(ctx, registry, user, password); err != nil {
		return fmt.Errorf("logging in to %s: %w", registry, err)
	}
	key := serverKey(registry)
	auth := types.AuthConfig{Username: user, Password: password, ServerAddress: key}
	if helper := helperFor(cf, key); helper != "" {
		if err := credentials.NewNativeStore(cf, helper).Store(auth); err != nil {
			return fmt.Errorf("keeping credentials for %s with docker-credential-%s: %w", registry, helper, err)
		}
		return nil
	}
	if cf.AuthConfigs == nil {
		cf.AuthConfigs = map[string]types.AuthConfig{}
	}
	cf.AuthConfigs[key] = auth
	return save(cf)
}

// ErrNotLoggedIn says that there are no credentials to forget.
var ErrNotLoggedIn = errors.New("not logged in")

// Logout forgets the credentials that Login kept.
func Logout(_ context.Context, registry, configDir string) error {
	cf, err := loadConfig(configDir)
	if err != nil {
		return err
	}
	key := serverKey(registry)
	if helper := helperFor(cf, key); helper != "" {
		if err := credentials.NewNativeStore(cf, helper).Erase(key); err != nil {
			return fmt.Errorf("forgetting credentials for %s with docker-credential-%s: %w", registry, helper, err)
		}
		return nil
	}
	if _, there := cf.AuthConfigs[key]; !there {
		return fmt.Errorf("logging out of %s: %w", registry, ErrNotLoggedIn)
	}
	delete(cf.AuthConfigs, key)
	return save(cf)
}

// verify asks the registry for its root as this user.
func (c *Client) verify(ctx context.Context, registry, user, password string) error {
	plain, err := name.NewRegistry(registry)
	if err != nil {
		return fmt.Errorf("reading registry name: %w", err)
	}
	reg, err := c.registry(plain)
	if err != nil {
		return err
	}
	root := name.Repository{Registry: reg}
	return c.retry.contact().do(ctx, func() error {
		auth := authn.FromConfig(authn.AuthConfig{Username: user, Password: password})
		asked, wait := withWait(ctx)
		rt, err := transport.NewWithContext(asked, reg, auth, c.base, nil)
		if err != nil {
			return wait.in(registryError(ctx, root, "authenticating", err))
		}
		s := &session{repo: root, http: &http.Client{Transport: rt}}
		resp, err := s.send(ctx, request{op: "authenticating", method: http.MethodGet, url: "https://" + reg.RegistryStr() + "/v2/"})
		if err != nil {
			return err
		}
		defer drain(resp)
		if resp.StatusCode != http.StatusOK {
			return answerError(root, "authenticating", resp)
		}
		return nil
	})
}

// helperFor is the credential helper that the configuration names for a registry, or "".
func helperFor(cf *configfile.ConfigFile, key string) string {
	if h := cf.CredentialHelpers[key]; h != "" {
		return h
	}
	return cf.CredentialsStore
}

// save writes the configuration. docker/cli keeps the mode of a file that was there, which may have
// been readable by all.
func save(cf *configfile.ConfigFile) error {
	if err := os.Chmod(cf.Filename, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping credentials: %w", err)
	}
	if err := cf.Save(); err != nil {
		return fmt.Errorf("keeping credentials: %w", err)
	}
	return nil
}
