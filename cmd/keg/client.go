package main

import (
	"context"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/clusterimage/keg/imagestore/transfer"
)

// dockerConfigDir is where docker, and so keg, keeps logins.
func (a *app) dockerConfigDir() (string, error) {
	if d := a.env("DOCKER_CONFIG"); d != "" {
		return d, nil
	}
	home, err := a.home()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".docker"), nil
}

// client talks to registries as the flags say.
func (a *app) client(show *display) *transfer.Client {
	return transfer.New(transfer.Options{
		Proxy:     http.ProxyFromEnvironment,
		Keychain:  lazyKeychain(sync.OnceValues(a.keychain)),
		Insecure:  a.insecure,
		CertDir:   "/etc/docker/certs.d",
		UserAgent: "keg/" + version,
		Progress:  show.event,
		Offline:   a.offline,
	})
}

// keychain has nothing where there is no place for logins.
func (a *app) keychain() (authn.Keychain, error) {
	dir, err := a.dockerConfigDir()
	if err != nil {
		return authn.NewMultiKeychain(), nil //nolint:nilerr // as for a user who never logged in
	}
	return transfer.Keychain(dir)
}

// lazyKeychain reads logins when a registry is asked: a build that needs none does not fail over a file
// that it cannot read.
type lazyKeychain func() (authn.Keychain, error)

var _ authn.ContextKeychain = lazyKeychain(nil)

// Resolve implements authn.Keychain.
func (k lazyKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (k lazyKeychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	keychain, err := k()
	if err != nil {
		return nil, err
	}
	return authn.Resolve(ctx, keychain, target)
}
