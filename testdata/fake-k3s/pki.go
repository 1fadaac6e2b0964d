package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// renewBelow is how much a certificate has left when a start renews it (since May 2025; 90 days before).
const renewBelow = 120 * 24 * time.Hour

// authorities of a cluster. All servers have all keys.
type authorities struct {
	server, client, front, etcdServer, etcdPeer standin.CA
}

var authorityFiles = []struct{ name, commonName string }{
	{"server-ca", "k3s-server-ca"}, {"client-ca", "k3s-client-ca"}, {"request-header-ca", "k3s-request-header-ca"},
	{"etcd/server-ca", "etcd-server-ca"}, {"etcd/peer-ca", "etcd-peer-ca"},
}

// bootstrapFiles are what servers share, below server/.
func bootstrapFiles() []string {
	var all []string
	for _, a := range authorityFiles {
		all = append(all, "tls/"+a.name+".crt", "tls/"+a.name+".key")
	}
	return append(all, "tls/service.key", "cred/passwd", "cred/encryption-config.json")
}

func (c *config) openAuthorities() (authorities, error) {
	if err := os.MkdirAll(c.path("server", "tls"), 0o700); err != nil {
		return authorities{}, err
	}
	var a authorities
	var errs []error
	for i, to := range []*standin.CA{&a.server, &a.client, &a.front, &a.etcdServer, &a.etcdPeer} {
		f := authorityFiles[i]
		ca, err := standin.OpenCA(c.tls(f.name+".crt"), c.tls(f.name+".key"), f.commonName)
		*to = ca
		errs = append(errs, err)
	}
	errs = append(errs, standin.ServiceAccountKey(c.tls("service.key"), ""))
	return a, errors.Join(errs...)
}

// issue makes sure that all certificates of a server are there and last.
func (c *config) issue(a authorities) error {
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.clusterDomain, "localhost", "127.0.0.1", "::1", c.nodeName}
	if _, services, err := net.ParseCIDR(strings.Split(c.serviceCIDR, ",")[0]); err == nil {
		names = append(names, nth(services, 1))
	}
	names = append(append(append(names, c.nodeIP...), c.advertise()), c.list("tls-san")...)
	etcdNames := append([]string{"localhost", "127.0.0.1", "::1", c.nodeName}, c.nodeIP...)
	for _, leaf := range []struct {
		name string
		ca   standin.CA
		leaf standin.Leaf
	}{
		{"client-admin", a.client, standin.Leaf{CommonName: "system:admin", Organizations: []string{"system:masters"}, Client: true}},
		{"client-supervisor", a.client, standin.Leaf{CommonName: "system:k3s-supervisor", Organizations: []string{"system:masters"}, Client: true}},
		{"client-controller", a.client, standin.Leaf{CommonName: "system:kube-controller-manager", Client: true}},
		{"client-scheduler", a.client, standin.Leaf{CommonName: "system:kube-scheduler", Client: true}},
		{"client-kube-apiserver", a.client, standin.Leaf{CommonName: "system:apiserver", Organizations: []string{"system:masters"}, Client: true}},
		{"client-auth-proxy", a.front, standin.Leaf{CommonName: "system:auth-proxy", Client: true}},
		{"serving-kube-apiserver", a.server, standin.Leaf{CommonName: "kube-apiserver", Hosts: names, Server: true}},
		{"etcd/server-client", a.etcdServer, standin.Leaf{CommonName: "etcd-server", Hosts: etcdNames, Server: true, Client: true}},
		{"etcd/peer-server-client", a.etcdPeer, standin.Leaf{CommonName: "etcd-peer", Hosts: etcdNames, Server: true, Client: true}},
		{"etcd/client", a.etcdServer, standin.Leaf{CommonName: "etcd-client", Client: true}},
	} {
		issued, err := leaf.ca.Issue(c.tls(leaf.name+".crt"), c.tls(leaf.name+".key"), leaf.leaf, renewBelow)
		if err != nil {
			return err
		}
		if issued {
			logf("info", "certificate CN=%s signed by CN=%s", leaf.leaf.CommonName, leaf.ca.Cert.Subject.CommonName)
		}
	}
	return nil
}

func (c *config) tlsFiles(ca, name string) standin.TLSFiles {
	return standin.TLSFiles{CA: c.tls(ca + ".crt"), Cert: c.tls(name + ".crt"), Key: c.tls(name + ".key")}
}

// kubeconfigs writes those of the components and of the administrator.
func (c *config) kubeconfigs() error {
	local := "https://127.0.0.1:6444"
	var errs []error
	for file, name := range map[string]string{"admin.kubeconfig": "client-admin", "controller.kubeconfig": "client-controller", "scheduler.kubeconfig": "client-scheduler"} {
		server := local
		if c.bin == "" {
			server = "https://127.0.0.1:" + c.or("https-listen-port", "6443")
		}
		errs = append(errs, standin.WriteKubeconfig(c.path("server", "cred", file), "local", server, c.tlsFiles("server-ca", name), false, 0o600))
	}
	var mode os.FileMode = 0o600
	if text := c.get("write-kubeconfig-mode"); text != "" {
		parsed, err := parseMode(text)
		if err != nil {
			return err
		}
		mode = parsed
	}
	file := c.or("write-kubeconfig", hostFile("/etc/rancher/k3s/k3s.yaml"))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	errs = append(errs, standin.WriteKubeconfig(file, "default", "https://127.0.0.1:"+c.or("https-listen-port", "6443"), c.tlsFiles("server-ca", "client-admin"), true, mode))
	return errors.Join(errs...)
}
