package main

import (
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// forever makes CA.Issue issue anew: k0s does so with every leaf at every start of a controller.
const forever = 100 * 365 * 24 * time.Hour

func (v *vars) tls(ca, name string) standin.TLSFiles {
	return standin.TLSFiles{CA: filepath.Join(v.pki, ca+".crt"), Cert: filepath.Join(v.pki, name+".crt"), Key: filepath.Join(v.pki, name+".key")}
}

func (v *vars) ca(name, commonName string) (standin.CA, error) {
	return standin.OpenCA(filepath.Join(v.pki, name+".crt"), filepath.Join(v.pki, name+".key"), commonName)
}

// serviceIP is the n-th address of the service network: the first is the API's, the tenth the name server's.
func serviceIP(cidr string, n byte) string {
	ip, _, err := net.ParseCIDR(cidr)
	if err != nil {
		return ""
	}
	if v4 := ip.To4(); v4 != nil {
		ip = v4
	}
	ip[len(ip)-1] += n
	return ip.String()
}

// certificates makes what is missing of the authorities, and all leaves and kubeconfigs.
func (v *vars) certificates(config *ClusterConfig) error {
	spec := config.Spec
	life := spec.API.CA.CertificatesExpireAfter.Duration
	ca, err := v.ca("ca", "kubernetes-ca")
	if err != nil {
		return err
	}
	front, err := v.ca("front-proxy-ca", "kubernetes-front-proxy-ca")
	if err != nil {
		return err
	}
	if err := standin.ServiceAccountKey(filepath.Join(v.pki, "sa.key"), filepath.Join(v.pki, "sa.pub")); err != nil {
		return err
	}
	domain := spec.Network.ClusterDomain
	hosts := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain, "localhost", "127.0.0.1", "::1",
		spec.API.Address, serviceIP(spec.Network.ServiceCIDR, 1),
	}, append(spec.API.SANs, localAddresses()...)...)
	if spec.API.ExternalAddress != "" {
		host := spec.API.ExternalAddress
		if h, _, ok := splitHostPort(host); ok {
			host = h
		}
		hosts = append(hosts, host)
	}
	if c := spec.Network.ControlPlaneLoadBalancing; c != nil && c.Enabled && c.Keepalived != nil {
		for _, instance := range c.Keepalived.VRRPInstances {
			for _, vip := range instance.VirtualIPs {
				if ip, _, err := net.ParseCIDR(vip); err == nil {
					hosts = append(hosts, ip.String())
				}
			}
		}
	}
	leaves := []struct {
		authority  standin.CA
		name       string
		leaf       standin.Leaf
		kubeconfig bool
	}{
		{front, "front-proxy-client", standin.Leaf{CommonName: "front-proxy-client", Organizations: []string{"front-proxy-client"}, Client: true}, false},
		{ca, "admin", standin.Leaf{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true}, true},
		{ca, "ccm", standin.Leaf{CommonName: "system:kube-controller-manager", Organizations: []string{"system:kube-controller-manager"}, Client: true}, true},
		{ca, "scheduler", standin.Leaf{CommonName: "system:kube-scheduler", Organizations: []string{"system:kube-scheduler"}, Client: true}, true},
		{ca, "apiserver-kubelet-client", standin.Leaf{CommonName: "apiserver-kubelet-client", Organizations: []string{"system:masters"}, Client: true}, false},
		{ca, "server", standin.Leaf{CommonName: "kubernetes", Organizations: []string{"kubernetes"}, Hosts: hosts, Server: true, Client: true}, false},
		{ca, "k0s-api", standin.Leaf{CommonName: "k0s-api", Organizations: []string{"kubernetes"}, Hosts: hosts, Server: true}, false},
	}
	for _, l := range leaves {
		l.leaf.Lifetime = life
		files := v.tls("ca", l.name)
		if _, err := l.authority.Issue(files.Cert, files.Key, l.leaf, forever); err != nil {
			return err
		}
		if l.kubeconfig {
			if err := standin.WriteKubeconfig(filepath.Join(v.pki, l.name+".conf"), "local", config.local(), files, true, 0o600); err != nil {
				return err
			}
		}
	}
	return os.Chmod(v.pki, 0o751)
}

// etcdCertificates makes those of etcd; its authority comes from another controller where this one joins.
func (v *vars) etcdCertificates(config *ClusterConfig) error {
	etcd := config.Spec.Storage.Etcd
	ca, err := v.ca("etcd/ca", "etcd-ca")
	if err != nil {
		return err
	}
	name, err := hostname()
	if err != nil {
		return err
	}
	local := []string{"127.0.0.1", "localhost", etcd.PeerAddress}
	for file, leaf := range map[string]standin.Leaf{
		"apiserver-etcd-client": {CommonName: "apiserver-etcd-client", Organizations: []string{"apiserver-etcd-client"}, Client: true},
		"etcd/server":           {CommonName: "etcd-server", Organizations: []string{"etcd-server"}, Hosts: local, Server: true, Client: true},
		"etcd/peer":             {CommonName: etcd.PeerAddress, Organizations: []string{"etcd-peer"}, Hosts: append(local, name), Server: true, Client: true},
	} {
		leaf.Lifetime = etcd.CA.CertificatesExpireAfter.Duration
		files := v.tls("etcd/ca", file)
		if _, err := ca.Issue(files.Cert, files.Key, leaf, forever); err != nil {
			return err
		}
	}
	return nil
}
