package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/pki"
	"github.com/clusterimage/keg/runtime/remote"
)

// registryPort is that of the registry unless env REGISTRY_PORT says otherwise.
const registryPort = 5000

// Registry is the cluster's own: keg-node serves the embedded images on every control plane. Name is
// the host itself on a control plane, and on a worker its balancer.
type Registry struct {
	Name string // a host name that /etc/hosts of every host knows
	Port int
	CA   []byte // PEM; nil until it is made
}

// Endpoint is "name:port".
func (r Registry) Endpoint() string { return r.Name + ":" + strconv.Itoa(r.Port) }

// URL is where it is reached.
func (r Registry) URL() string { return "https://" + r.Endpoint() }

// Registry is the cluster's registry.
func (c *Cluster) Registry() Registry {
	r := Registry{Name: "registry.cluster.local", Port: registryPort, CA: c.ca.cert}
	if p, err := strconv.ParseUint(c.Options.Env["REGISTRY_PORT"], 10, 16); err == nil && p > 0 {
		r.Port = int(p)
	}
	return r
}

// registryCA is the authority that the registry's certificate is signed by, as PEM.
type registryCA struct{ cert, key []byte }

// Files of the registry on a control plane, beside node.RegistryConfigFile.
var (
	registryDir    = filepath.Dir(node.RegistryConfigFile)
	registryCACert = registryDir + "/ca.crt"
	registryCAKey  = registryDir + "/ca.key"
	registryCert   = registryDir + "/tls.crt"
	registryKey    = registryDir + "/tls.key"
	registryUnit   = "/etc/systemd/system/" + node.RegistryUnitName
)

// registry serves the embedded images and makes every host pull from there and nowhere else.
func registry(c *Cluster) []Batch {
	first := c.First()
	return []Batch{
		{
			c.hook(first, "pre-registry"),
			first.On("make the registry's authority", c.registryAuthority),
		},
		each(c.ByRole(Master), func(n *Node) []Step {
			return append(c.copyApps(n),
				n.On("make the registry's certificate", func(ctx context.Context, _ io.Writer) error { return c.registryCertificate(ctx, n) }),
				n.On("serve the image's containers at "+c.Registry().Endpoint(), func(ctx context.Context, _ io.Writer) error {
					return c.registryServe(ctx, n, c.Image.Target.Digest)
				}),
			)
		}),
		each(c.ByRole(Worker), c.balancerSteps),
		each(c.staying(), func(n *Node) []Step {
			return []Step{n.On("pull all images from "+c.Registry().Endpoint(), func(ctx context.Context, _ io.Writer) error {
				r, err := n.Host.Put(ctx, c.Driver.Mirror(c.Registry()))
				n.changed = append(n.changed, r.Changed...)
				if err == nil && len(r.Changed) == 0 {
					return ErrAlready
				}
				return err
			})}
		}),
		{c.hook(first, "post-registry")},
	}
}

// registryAuthority makes the CA once in a cluster's life. Every control plane has it, and the operator
// a copy.
func (c *Cluster) registryAuthority(ctx context.Context, _ io.Writer) error {
	if err := c.findAuthority(ctx); err != nil {
		return err
	}
	if c.ca.cert != nil {
		if err := c.saveCA(); err != nil {
			return err
		}
		return ErrAlready
	}
	made, err := pki.NewCA("keg registry of cluster " + c.Name)
	if err != nil {
		return err
	}
	c.ca = registryCA{cert: made.CertPEM(), key: made.KeyPEM()}
	return c.saveCA()
}

// findAuthority looks for the CA on the control planes, then in a backup, then with the operator.
func (c *Cluster) findAuthority(ctx context.Context) error {
	for _, n := range c.ByRole(Master) {
		if n.Runner == nil || n.failed != nil {
			continue
		}
		ca, err := readCA(ctx, n.Runner)
		if err != nil {
			return err
		}
		if ca.cert != nil {
			c.ca = ca
			return nil
		}
	}
	if c.backup != nil {
		c.ca = c.backup.ca
		return nil
	}
	ca, err := c.savedCA()
	c.ca = ca
	return err
}

func (c *Cluster) registryCertificate(ctx context.Context, n *Node) error {
	authority, err := pki.ParseCA(c.ca.cert, c.ca.key)
	if err != nil {
		return fmt.Errorf("reading the registry's CA: %w", err)
	}
	names := []string{c.Registry().Name, "localhost"}
	ips := []netip.Addr{parseAddr(n.IP), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if cert, err := readFile(ctx, n.Runner, registryCert); err != nil {
		return err
	} else if cert != nil && authority.Covers(cert, names, ips) {
		return ErrAlready
	}
	cert, key, err := authority.Server(names, ips)
	if err != nil {
		return err
	}
	_, err = n.Host.Put(ctx, []File{
		{Path: registryCAKey, Mode: 0o600, Data: c.ca.key},
		{Path: registryCACert, Mode: 0o644, Data: c.ca.cert}, // it says that its key is there
		{Path: registryKey, Mode: 0o600, Data: key},
		{Path: registryCert, Mode: 0o644, Data: cert},
	})
	return err
}

// registryServe serves what some cluster images embed, and what apps that came later do. The first
// wins where two embed an image of one name.
func (c *Cluster) registryServe(ctx context.Context, n *Node, images ...digest.Digest) error {
	indexes := images
	for _, d := range slices.Sorted(maps.Keys(n.State.Apps)) {
		if !slices.Contains(indexes, d) {
			indexes = append(indexes, d)
		}
	}
	config, err := json.MarshalIndent(node.RegistryConfig{
		Listen:   ":" + strconv.Itoa(c.Registry().Port),
		CertFile: registryCert, KeyFile: registryKey,
		Indexes: indexes,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the registry's configuration: %w", err)
	}
	r, err := n.Host.Put(ctx, []File{
		{Path: node.RegistryConfigFile, Mode: 0o600, Data: append(config, '\n')},
		{Path: registryUnit, Mode: 0o644, Data: []byte(node.RegistryUnit)},
	})
	if err != nil {
		return err
	}
	return n.Host.Units(ctx, node.UnitRequest{Units: []string{node.RegistryUnitName}, Restart: len(r.Changed) > 0})
}

// restartRegistry makes the registry on a control plane read its certificate anew.
func (n *Node) restartRegistry(ctx context.Context) error {
	return n.Host.Units(ctx, node.UnitRequest{Units: []string{node.RegistryUnitName}, Restart: true})
}

// readFile reads a file on a host; nil if it is not there.
func readFile(ctx context.Context, r remote.Runner, path string) ([]byte, error) {
	var out bytes.Buffer
	err := r.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", `[ ! -e "$1" ] || cat "$1"`, "sh", path}, Stdout: &out})
	if err != nil {
		return nil, err
	}
	if out.Len() == 0 {
		return nil, nil
	}
	return out.Bytes(), nil
}

func readCA(ctx context.Context, r remote.Runner) (registryCA, error) {
	cert, err := readFile(ctx, r, registryCACert)
	if err != nil {
		return registryCA{}, err
	}
	key, err := readFile(ctx, r, registryCAKey)
	if err != nil || cert == nil || key == nil {
		return registryCA{}, err
	}
	return registryCA{cert: cert, key: key}, nil
}

// caDir is where the operator keeps the CA: apart for each life of a cluster.
func (c *Cluster) caDir() string { return filepath.Join(c.Dir, "registry", c.UID) }

func (c *Cluster) savedCA() (registryCA, error) {
	if c.Dir == "" {
		return registryCA{}, nil
	}
	cert, err := os.ReadFile(filepath.Join(c.caDir(), "ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return registryCA{}, nil
	}
	if err != nil {
		return registryCA{}, fmt.Errorf("reading the registry's CA: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(c.caDir(), "ca.key"))
	if err != nil {
		return registryCA{}, fmt.Errorf("reading the registry's CA: %w", err)
	}
	return registryCA{cert: cert, key: key}, nil
}

// saveCA writes the key first: a certificate says that its key is there.
func (c *Cluster) saveCA() error {
	if c.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(c.caDir(), 0o700); err != nil {
		return fmt.Errorf("keeping the registry's CA: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(c.caDir(), "ca.key"), c.ca.key, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(c.caDir(), "ca.crt"), c.ca.cert, 0o600)
}
