package balancer

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
)

// Parse reads a configuration strictly. All that is wrong with it stands in the error, a node.Error of
// node.KindRequest.
func Parse(data []byte) (node.BalancerConfig, error) {
	var c node.BalancerConfig
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, node.Errorf(node.KindRequest, "reading %s: %v", node.BalancerConfigFile, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return c, node.Errorf(node.KindRequest, "reading %s: something stands after the configuration", node.BalancerConfigFile)
	}
	if errs := mistakes(c); len(errs) > 0 {
		return c, node.Errorf(node.KindRequest, "%s: %s", node.BalancerConfigFile, strings.Join(errs, "; "))
	}
	return c, nil
}

func mistakes(c node.BalancerConfig) []string {
	var errs []string
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	if len(c.Listeners) == 0 {
		wrong("there are no listeners")
	}
	var seen []string
	for _, l := range c.Listeners {
		if err := checkAddress(l.Listen, true); err != nil {
			wrong("listen %q: %v", l.Listen, err)
		}
		if slices.Contains(seen, l.Listen) {
			wrong("listen %q stands there twice", l.Listen)
		}
		seen = append(seen, l.Listen)
		if len(l.Backends) == 0 {
			wrong("listen %q has no backends", l.Listen)
		}
		for i, b := range l.Backends {
			if err := checkAddress(b, false); err != nil {
				wrong("backend %q: %v", b, err)
			}
			if b == l.Listen {
				wrong("backend %q is the listener itself", b)
			}
			if slices.Contains(l.Backends[:i], b) {
				wrong("backend %q stands there twice", b)
			}
		}
		switch k := l.Check; {
		case k.Kind != node.CheckTCP && k.Kind != node.CheckTLS && k.Kind != node.CheckHTTPS:
			wrong("check %q is none of tcp, tls, https", k.Kind)
		case k.Kind == node.CheckHTTPS && !strings.HasPrefix(k.Path, "/"):
			wrong("the path %q of an https check does not begin with /", k.Path)
		case k.Kind != node.CheckHTTPS && k.Path != "":
			wrong("a %s check has no path", k.Kind)
		case k.Kind == node.CheckTCP && (k.CAFile != "" || k.ServerName != ""):
			wrong("a tcp check has no caFile and no serverName")
		case k.CAFile != "" && !filepath.IsAbs(k.CAFile):
			wrong("caFile %q is not absolute", k.CAFile)
		}
	}
	return errs
}

func checkAddress(a string, anyHost bool) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return errors.New("it is not HOST:PORT")
	}
	if host == "" && !anyHost {
		return errors.New("it has no host")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port", port)
	}
	return nil
}

// authorities reads the CA files of a configuration, by name.
func authorities(c node.BalancerConfig, read func(string) ([]byte, error)) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, l := range c.Listeners {
		name := l.Check.CAFile
		if name == "" || all[name] != nil {
			continue
		}
		data, err := read(name)
		if err != nil {
			return nil, fmt.Errorf("reading the backends' CA: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(data) {
			return nil, node.Errorf(node.KindRequest, "%s holds no certificate", name)
		}
		all[name] = data
	}
	return all, nil
}

// tlsConfig is that of a check: it has the authorities, but not yet the server's name.
func tlsConfig(c node.BalancerCheck, cas map[string][]byte) *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CAFile == "" {
		t.InsecureSkipVerify = true // see node.BalancerCheck.CAFile
		return t
	}
	t.RootCAs = x509.NewCertPool()
	t.RootCAs.AppendCertsFromPEM(cas[c.CAFile])
	return t
}
