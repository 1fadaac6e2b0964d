package kubernetes

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

type writer = io.Writer

// token is a bootstrap token, "ID.SECRET". The ID alone is not secret.
type token string

func (t token) id() string { return string(t[:6]) }

// tokenTTL is longer than any join takes; tokens are deleted when the joins are over, and a run that is
// killed leaves them no longer than that.
const tokenTTL = "30m0s"

func newToken() token {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	var b []byte
	for len(b) < 22 {
		var one [1]byte
		_, _ = rand.Read(one[:]) // never fails (crypto/rand)
		// 252 is the largest multiple of 36 in a byte: every letter is as likely as another.
		if one[0] < 252 {
			b = append(b, letters[one[0]%36])
		}
	}
	return token(b[:6]) + "." + token(b[6:])
}

// caHash is kubeadm's hash of a CA certificate in PEM: of its public key.
func caHash(data []byte) (string, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return "", errors.New("reading the cluster's CA certificate: it is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("reading the cluster's CA certificate: %w", err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

func bootstrapToken(t token) map[string]any {
	return map[string]any{
		"token": string(t), "ttl": tokenTTL, "description": "keg: nodes of this run",
		"usages": []any{"signing", "authentication"},
		"groups": []any{"system:bootstrappers:kubeadm:default-node-token"},
	}
}

// tokenConfig is a configuration that only tells `kubeadm token create` the token.
func tokenConfig(t token) ([]byte, error) {
	data, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "InitConfiguration",
		"bootstrapTokens": []any{bootstrapToken(t)},
	})
	if err != nil {
		return nil, fmt.Errorf("writing kubeadm's configuration: %w", err)
	}
	return data, nil
}

// phaseLines passes on what kubeadm says about its phases, "[phase] text", and drops the rest: tables,
// and what a person should do next, which keg does. Errors come with the *remote.ExitError.
type phaseLines struct {
	out  io.Writer
	rest []byte
}

// Write implements io.Writer.
func (p *phaseLines) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	for {
		line, rest, ok := bytes.Cut(p.rest, []byte("\n"))
		if !ok {
			return len(data), nil
		}
		p.rest = rest
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && trimmed[0] == '[' {
			if _, err := p.out.Write(append(trimmed, '\n')); err != nil {
				return 0, err
			}
		}
	}
}

// kubeadm runs the kubeadm that is installed, with a secret configuration file that is there only while it runs.
func kubeadm(ctx context.Context, n *runtime.Node, name string, config []byte, out io.Writer, args ...string) error {
	return kubeadmFrom(ctx, binDir, n, name, config, out, args...)
}

// kubeadmFrom runs the kubeadm of a directory, such as that of a rootfs that is about to be installed.
func kubeadmFrom(ctx context.Context, dir string, n *runtime.Node, name string, config []byte, out io.Writer, args ...string) (err error) {
	path := secretDir + "/" + name
	defer func() {
		if errors.Is(err, remote.ErrDisconnected) {
			return // the next run clears the way
		}
		ctx := context.WithoutCancel(ctx)
		err = errors.Join(err, n.Runner.Run(ctx, remote.Cmd{Args: []string{"rm", "-f", path}}))
	}()
	if _, err := n.Host.Put(ctx, []runtime.File{{Path: path, Mode: 0o600, Data: config}}); err != nil {
		return err
	}
	return n.Runner.Run(ctx, remote.Cmd{
		Args:   append(append([]string{dir + "/kubeadm"}, args...), "--config", path),
		Stdout: &phaseLines{out: out}, Stderr: &phaseLines{out: out},
	})
}

// kubeadmReset takes back what kubeadm did on a host, so that it can be done again. A member of etcd that
// others know must have been taken out before.
func kubeadmReset(ctx context.Context, n *runtime.Node, out io.Writer) error {
	return n.Runner.Run(ctx, remote.Cmd{
		// Its own way of leaving etcd waits for minutes where that is broken, and says nothing if it fails.
		Args:   []string{"/bin/sh", "-c", binDir + "/kubeadm reset -f --cri-socket " + criSocket + " --skip-phases=remove-etcd-member && rm -rf /var/lib/etcd/* /etc/cni/net.d/10-keg-bridge.conflist"},
		Stdout: &phaseLines{out: out}, Stderr: &phaseLines{out: out},
	})
}

// rendered reads a file of the host's rootfs.
func rendered(ctx context.Context, n *runtime.Node, path string) ([]byte, error) {
	return remote.Output(ctx, n.Runner, "cat", node.Rootfs+"/"+path)
}
