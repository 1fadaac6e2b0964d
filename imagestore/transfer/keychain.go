package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// keychain finds credentials in files of Docker's form, the first that has any for a registry.
type keychain []*configfile.ConfigFile

var _ authn.ContextKeychain = keychain(nil)

// Keychain finds credentials in configDir/config.json, Docker's file, through the credential helpers
// that it names, and then in authFiles, which have the same form and may name repositories too
// (containers-auth.json(5)). Files that are not there have none. The files are read now, helpers are
// asked when a registry is.
func Keychain(configDir string, authFiles ...string) (authn.Keychain, error) {
	cf, err := loadConfig(configDir)
	if err != nil {
		return nil, err
	}
	chain := keychain{cf}
	for _, path := range authFiles {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading credentials: %w", err)
		}
		cf, err := config.LoadFromReader(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading credentials: %s: %w", path, err)
		}
		chain = append(chain, cf)
	}
	return chain, nil
}

func loadConfig(dir string) (*configfile.ConfigFile, error) {
	if dir == "" {
		return nil, errors.New("reading credentials: no configuration directory was given")
	}
	cf, err := config.Load(dir)
	if err != nil {
		return nil, fmt.Errorf("reading credentials: %w", err)
	}
	return cf, nil
}

// Resolve implements authn.Keychain.
func (k keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (k keychain) ResolveContext(_ context.Context, target authn.Resource) (authn.Authenticator, error) {
	for _, cf := range k {
		found, err := lookup(cf, target)
		if err != nil {
			return nil, err
		}
		found.ServerAddress = ""
		if found != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: found.Username, Password: found.Password, Auth: found.Auth,
				IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}

// lookup goes from the repository up to its registry.
func lookup(cf *configfile.ConfigFile, target authn.Resource) (types.AuthConfig, error) {
	registry := serverKey(target.RegistryStr())
	for path := target.String(); strings.Contains(path, "/"); path = path[:strings.LastIndexByte(path, '/')] {
		key := path
		if rest, ok := strings.CutPrefix(path, name.DefaultRegistry+"/"); ok {
			key = "docker.io/" + rest
		}
		if auth, ok := cf.AuthConfigs[key]; ok {
			return auth, nil
		}
	}
	auth, err := cf.GetAuthConfig(registry)
	if err != nil {
		return auth, fmt.Errorf("asking the credential helper about %s: %w", registry, err)
	}
	if auth.Username == "" && auth.IdentityToken == "" && registry == authn.DefaultAuthKey {
		return cf.AuthConfigs["docker.io"], nil // podman's way to write it
	}
	return auth, nil
}

// serverKey is the name under which credentials of a registry are kept.
func serverKey(registry string) string {
	if registry == name.DefaultRegistry || registry == "docker.io" {
		return authn.DefaultAuthKey
	}
	return registry
}
