package transfer

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// certificates reads what dir/host/ holds, in Docker's layout. It is nil where there is nothing.
func certificates(dir, host string) (*tls.Config, error) {
	if dir == "" || strings.ContainsAny(host, `/\`) || strings.HasPrefix(host, ".") {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(dir, host))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading certificates for %s: %w", host, err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, e := range entries {
		path := filepath.Join(dir, host, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			pem, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("reading certificates for %s: %w", host, err)
			}
			if cfg.RootCAs == nil {
				if cfg.RootCAs, err = x509.SystemCertPool(); err != nil {
					cfg.RootCAs = x509.NewCertPool()
				}
			}
			if !cfg.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("reading certificates for %s: %s holds no PEM certificate", host, path)
			}
		case ".cert":
			pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
			if err != nil {
				return nil, fmt.Errorf("reading certificates for %s: %w", host, err)
			}
			cfg.Certificates = append(cfg.Certificates, pair)
		}
	}
	return cfg, nil
}
