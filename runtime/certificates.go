package runtime

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterimage/keg/runtime/remote"
)

// Certificate is one certificate on a host.
type Certificate struct {
	Host    string    `json:"host"`
	File    string    `json:"file"`
	Subject string    `json:"subject"`
	CA      bool      `json:"ca"`
	Expires time.Time `json:"expires"`
	SANs    []string  `json:"sans,omitempty"`
}

// reachable says which hosts a service is for.
type reachable int

const (
	allHosts   reachable = iota
	allMasters           // and the workers that answer
	whoever              // those that answer
)

// servicePhases are those before any work on a cluster that is there: reach its hosts, and refuse if
// they are not its own.
func servicePhases(r reachable) []Phase {
	tolerated := func(n *Node) bool { return r == whoever || r == allMasters && n.Role == Worker }
	return []Phase{
		&phase{title: "connect", limit: 30, batches: connect, tolerated: tolerated},
		&phase{title: "send keg-node", limit: 10, batches: sendAgent, tolerated: tolerated},
		&phase{title: "lock", limit: 30, batches: lock, tolerated: tolerated},
		&phase{title: "gather facts", limit: 30, batches: gatherFacts, tolerated: tolerated},
		&phase{title: "validate", limit: 1, batches: validateService},
	}
}

func validateService(c *Cluster) []Batch {
	return []Batch{{{Text: "see that all hosts are the cluster's", Do: func(ctx context.Context, _ io.Writer) error {
		c.settleAlive(ctx)
		if err := judge(c.belonging()); err != nil {
			return err
		}
		return c.recallSettings(ctx)
	}}}}
}

// Certificates reads the certificates on all hosts; soonest to expire comes first. It changes nothing.
func Certificates(ctx context.Context, c *Cluster) ([]Certificate, error) {
	var mu sync.Mutex
	var list []Certificate
	phases := append(servicePhases(whoever), &phase{title: "read certificates", limit: 30, tolerant: true, batches: func(c *Cluster) []Batch {
		return []Batch{each(c.staying(), func(n *Node) []Step {
			return []Step{n.On("read certificates", func(ctx context.Context, _ io.Writer) error {
				found, err := c.readCertificates(ctx, n)
				mu.Lock()
				defer mu.Unlock()
				list = append(list, found...)
				return err
			})}
		})}
	}})
	err := Run(ctx, c, phases)
	slices.SortFunc(list, func(a, b Certificate) int {
		return cmp.Or(a.Expires.Compare(b.Expires), cmp.Compare(a.Host, b.Host), cmp.Compare(a.File, b.File))
	})
	return list, err
}

// printCertificates prints of files what is no secret: certificates in PEM, and those in kubeconfigs.
// Patterns are expanded here, as path.Match knows them.
const printCertificates = `
for f; do
  [ -f "$f" ] || continue
  echo "== $f"
  sed -n -e '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' -e 's/^ *client-certificate-data: */data /p' "$f"
done
`

func (c *Cluster) readCertificates(ctx context.Context, n *Node) ([]Certificate, error) {
	var list []Certificate
	files := append(slices.Clone(c.Driver.CertificateFiles(n)), registryCert, registryCACert)
	var words strings.Builder
	for _, f := range files {
		words.WriteString(" " + f) // patterns of drivers hold nothing that a shell minds
	}
	out, err := remote.Output(ctx, n.Runner, "/bin/sh", "-c", "set --"+words.String()+printCertificates)
	if err != nil {
		return nil, err
	}
	for part := range bytes.SplitSeq(append([]byte("\n"), out...), []byte("\n== ")) {
		file, rest, _ := bytes.Cut(part, []byte("\n"))
		found, err := parseCertificates(rest)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		for _, cert := range found {
			list = append(list, certificate(n, string(file), cert))
		}
	}
	return list, nil
}

func certificate(n *Node, file string, cert *x509.Certificate) Certificate {
	subject := cert.Subject.CommonName
	if subject == "" {
		subject = cert.Subject.String()
	}
	entry := Certificate{Host: n.Address.String(), File: file, Subject: subject, CA: cert.IsCA, Expires: cert.NotAfter.UTC(), SANs: cert.DNSNames}
	for _, ip := range cert.IPAddresses {
		entry.SANs = append(entry.SANs, ip.String())
	}
	return entry
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for line := range bytes.Lines(data) {
		if encoded, ok := bytes.CutPrefix(line, []byte("data ")); ok {
			decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(encoded)))
			if err != nil {
				return nil, err
			}
			data = append(data, decoded...)
		}
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, cert)
	}
	return list, nil
}

// RenewPhases issue all certificates of the cluster anew, its CA's excepted, host by host.
func RenewPhases() []Phase {
	return append(servicePhases(allHosts),
		&phase{title: "renew certificates of control planes", limit: 1, batches: func(c *Cluster) []Batch {
			var all []Batch
			for _, n := range c.ByRole(Master) {
				b := Batch(c.Driver.RenewCertificates(c, n))
				b = append(b, c.renewRegistry(n), n.On("wait until all control planes are well", func(ctx context.Context, _ io.Writer) error { return c.Gate(ctx) }))
				all = append(all, b)
			}
			return all
		}},
		&phase{title: "renew certificates of workers", limit: 10, batches: func(c *Cluster) []Batch {
			return []Batch{each(c.ByRole(Worker), func(n *Node) []Step { return c.Driver.RenewCertificates(c, n) })}
		}},
		&phase{title: "wait for nodes", limit: 10, batches: ready},
		&phase{title: "kubeconfig", limit: 1, batches: kubeconfig, skip: noKubeconfig},
	)
}

func (c *Cluster) renewRegistry(n *Node) Step {
	return n.On("renew the registry's certificate", func(ctx context.Context, _ io.Writer) error {
		if err := c.findAuthority(ctx); err != nil {
			return err
		}
		if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"rm", "-f", registryCert}}); err != nil {
			return err
		}
		if err := c.registryCertificate(ctx, n); err != nil {
			return err
		}
		return n.restartRegistry(ctx)
	})
}

// SANPhases make the API's certificate valid for more names and addresses.
func SANPhases(sans []string) []Phase {
	check := &phase{title: "check request", limit: 1, batches: func(*Cluster) []Batch {
		// kubeadm would keep one that is no name, and refuse to make any certificate from then on.
		return []Batch{{{Text: "check what is asked for", Do: func(context.Context, io.Writer) error { return judge(checkSANs(sans)) }}}}
	}}
	return append(append([]Phase{check}, servicePhases(allHosts)...),
		&phase{title: "add names to the API's certificate", limit: 1, batches: func(c *Cluster) []Batch {
			c.Options.Settings = c.Options.Settings.with(Settings{SANs: sans})
			var all []Batch
			for _, n := range c.ByRole(Master) {
				b := Batch(c.Driver.ApplySANs(c, n))
				all = append(all, append(b, n.On("wait until all control planes are well", func(ctx context.Context, _ io.Writer) error { return c.Gate(ctx) })))
			}
			return append(all, keepSettings(c)...)
		}},
	)
}

// AnswersTo asks the API on a control plane by each of OwnSANs, as its own kubeconfig reaches it, and wants a
// certificate for that name.
func (c *Cluster) AnswersTo(ctx context.Context, n *Node) error {
	script := `for name; do ` + strings.Join(c.Driver.Kubectl(), " ") + ` get --raw /readyz --request-timeout=15s --tls-server-name "$name" >/dev/null || exit; done`
	if err := n.Runner.Run(ctx, remote.Cmd{Args: append([]string{"/bin/sh", "-c", script, "sh"}, c.OwnSANs(n)...)}); err != nil {
		return fmt.Errorf("asking the API by each of its names: %w", err)
	}
	return nil
}

// RotatePhases make every join secret that was given out worthless.
func RotatePhases() []Phase {
	return append(servicePhases(allHosts),
		&phase{title: "rotate join secrets", limit: 1, batches: func(c *Cluster) []Batch { return c.Driver.RotateTokens(c) }},
		&phase{title: "wait for nodes", limit: 10, batches: ready},
	)
}
