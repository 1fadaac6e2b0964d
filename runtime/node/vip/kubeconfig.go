package vip

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// access is how an API server is reached.
type access struct {
	server string
	tls    *tls.Config
	token  string
}

// kubeconfig is what matters of one.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster string `json:"cluster"`
			User    string `json:"user"`
		} `json:"context"`
	} `json:"contexts"`
	Clusters []struct {
		Name    string `json:"name"`
		Cluster struct {
			Server        string `json:"server"`
			CA            string `json:"certificate-authority"`
			CAData        []byte `json:"certificate-authority-data"`
			TLSServerName string `json:"tls-server-name"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string `json:"name"`
		User struct {
			Cert     string `json:"client-certificate"`
			CertData []byte `json:"client-certificate-data"`
			Key      string `json:"client-key"`
			KeyData  []byte `json:"client-key-data"`
			Token    string `json:"token"`
		} `json:"user"`
	} `json:"users"`
}

// readKubeconfig reads the current context of the kubeconfig data, which came from the file name. Other
// files that it names are read as well.
func readKubeconfig(data []byte, name string, read func(string) ([]byte, error)) (*access, error) {
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return nil, errors.New("it is no kubeconfig") // the error of the parser may show what is in it
	}
	file := func(data []byte, path string) ([]byte, error) {
		if data != nil || path == "" {
			return data, nil
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(name), path)
		}
		return read(path)
	}
	a := &access{tls: &tls.Config{MinVersion: tls.VersionTLS12}}
	var cluster, user string
	for _, c := range k.Contexts {
		if c.Name == k.CurrentContext {
			cluster, user = c.Context.Cluster, c.Context.User
		}
	}
	for _, c := range k.Clusters {
		if c.Name != cluster {
			continue
		}
		ca, err := file(c.Cluster.CAData, c.Cluster.CA)
		if err != nil {
			return nil, err
		}
		a.server, a.tls.ServerName = strings.TrimSuffix(c.Cluster.Server, "/"), c.Cluster.TLSServerName
		a.tls.RootCAs = x509.NewCertPool()
		if !a.tls.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("its cluster %q has no certificate authority", cluster)
		}
	}
	if !strings.HasPrefix(a.server, "https://") {
		return nil, fmt.Errorf("its current context %q has no cluster with an https server", k.CurrentContext)
	}
	for _, u := range k.Users {
		if u.Name != user {
			continue
		}
		a.token = u.User.Token
		cert, err := file(u.User.CertData, u.User.Cert)
		if err != nil {
			return nil, err
		}
		key, err := file(u.User.KeyData, u.User.Key)
		if err != nil {
			return nil, err
		}
		if cert == nil && key == nil {
			continue
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("the client certificate of its user %q: %w", user, err)
		}
		a.tls.Certificates = []tls.Certificate{pair}
	}
	if a.token == "" && a.tls.Certificates == nil {
		return nil, fmt.Errorf("its current context %q has neither a client certificate nor a token", k.CurrentContext)
	}
	return a, nil
}
