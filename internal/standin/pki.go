package standin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/internal/atomicfile"
)

const day = 24 * time.Hour

// CA is a certificate authority that lies in two PEM files.
type CA struct {
	Cert    *x509.Certificate
	CertPEM []byte
	key     crypto.Signer
}

// OpenCA loads the authority in the two files, or makes one that is valid for ten years if there is none.
func OpenCA(certFile, keyFile, commonName string) (CA, error) {
	ca, err := LoadCA(certFile, keyFile)
	if !errors.Is(err, fs.ErrNotExist) {
		return ca, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return CA{}, fmt.Errorf("making authority %s: %w", commonName, err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotAfter:              time.Now().Add(3650 * day),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	certPEM, err := sign(template, template, &key.PublicKey, key)
	if err != nil {
		return CA{}, fmt.Errorf("making authority %s: %w", commonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return CA{}, fmt.Errorf("making authority %s: %w", commonName, err)
	}
	if err := writePair(certFile, certPEM, keyFile, keyPEM); err != nil {
		return CA{}, fmt.Errorf("making authority %s: %w", commonName, err)
	}
	return LoadCA(certFile, keyFile)
}

// LoadCA loads the authority in the two files.
func LoadCA(certFile, keyFile string) (CA, error) {
	cert, certPEM, err := ReadCertificate(certFile)
	if err != nil {
		return CA{}, err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return CA{}, err
	}
	return CA{Cert: cert, CertPEM: certPEM, key: key}, nil
}

// Hash is the SHA-256 of the certificate in hex.
func (ca CA) Hash() string {
	sum := sha256.Sum256(ca.Cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Leaf says what a certificate is for.
type Leaf struct {
	CommonName    string
	Organizations []string
	// Hosts are names and addresses of a server.
	Hosts          []string
	Server, Client bool
	// Lifetime is 365 days if zero.
	Lifetime time.Duration
}

// Issue makes sure that the two files hold a certificate of ca for l. It writes a new one, mode 0644 and
// 0600, if there is none, if it is by another authority, for another purpose or lacks a host, or if it is valid for
// no longer than renew; and says so.
func (ca CA) Issue(certFile, keyFile string, l Leaf, renew time.Duration) (issued bool, err error) {
	if cert, _, err := ReadCertificate(certFile); err == nil {
		if _, keyErr := os.Stat(keyFile); keyErr == nil && ca.good(cert, l, renew) {
			return false, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, fmt.Errorf("issuing %s: %w", l.CommonName, err)
	}
	certPEM, err := ca.Sign(&key.PublicKey, l)
	if err != nil {
		return false, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return false, fmt.Errorf("issuing %s: %w", l.CommonName, err)
	}
	if err := writePair(certFile, certPEM, keyFile, keyPEM); err != nil {
		return false, fmt.Errorf("issuing %s: %w", l.CommonName, err)
	}
	return true, nil
}

// Sign returns the certificate of l for a public key that somebody else has, followed by that of ca: PEM.
func (ca CA) Sign(public crypto.PublicKey, l Leaf) ([]byte, error) {
	if l.Lifetime == 0 {
		l.Lifetime = 365 * day
	}
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: l.CommonName, Organization: l.Organizations},
		NotAfter: time.Now().Add(l.Lifetime),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature,
	}
	for _, h := range l.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if l.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if l.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	leaf, err := sign(template, ca.Cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issuing %s: %w", l.CommonName, err)
	}
	return append(leaf, ca.CertPEM...), nil
}

func (ca CA) good(cert *x509.Certificate, l Leaf, renew time.Duration) bool {
	if cert.CheckSignatureFrom(ca.Cert) != nil || time.Until(cert.NotAfter) <= renew || cert.Subject.CommonName != l.CommonName ||
		!slices.Equal(cert.Subject.Organization, l.Organizations) {
		return false
	}
	for _, h := range l.Hosts {
		if cert.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-5 * time.Minute) // clocks of hosts differ
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// NewKey returns a private key and, PEM encoded, that key and a request to sign it.
func NewKey(commonName string) (keyPEM, requestPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	return keyPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// RequestedKey is the public key in a PEM encoded request whose signature is right.
func RequestedKey(requestPEM []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(requestPEM)
	if block == nil {
		return nil, errors.New("reading a certificate request: no PEM block")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("reading a certificate request: %w", err)
	}
	return request.PublicKey, nil
}

// ServiceAccountKey makes sure that keyFile holds an RSA key (0600), and pubFile, if not empty, its public half.
func ServiceAccountKey(keyFile, pubFile string) error {
	key, err := readKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		made, makeErr := rsa.GenerateKey(rand.Reader, 2048)
		if makeErr != nil {
			return fmt.Errorf("making the key of service accounts: %w", makeErr)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(made)})
		key, err = made, writeFile(keyFile, block, 0o600)
	}
	if err != nil {
		return fmt.Errorf("making the key of service accounts: %w", err)
	}
	if pubFile == "" {
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("making the key of service accounts: %w", err)
	}
	return writeFile(pubFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

// ReadCertificate reads the first certificate of a PEM file.
func ReadCertificate(file string) (*x509.Certificate, []byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, nil, fmt.Errorf("reading a certificate: %s has none", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("reading certificate %s: %w", file, err)
	}
	return cert, data, nil
}

func readKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("reading a key: %s has none", file)
	}
	var key any
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", file, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("reading key %s: it cannot sign", file)
	}
	return signer, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func writePair(certFile string, cert []byte, keyFile string, key []byte) error {
	return errors.Join(writeFile(keyFile, key, 0o600), writeFile(certFile, cert, 0o644))
}

func writeFile(file string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(file, data, mode)
}

// WriteKubeconfig writes a kubeconfig for server (a URL) with one context called name. The files of tls are
// included if embed is set, else named.
func WriteKubeconfig(file, name, server string, tls TLSFiles, embed bool, mode fs.FileMode) error {
	cluster, user := map[string]any{"server": server}, map[string]any{}
	set := func(m map[string]any, key, file string) error {
		if !embed {
			m[key] = file
			return nil
		}
		data, err := os.ReadFile(file)
		m[key+"-data"] = data // a byte slice becomes base64
		return err
	}
	if err := errors.Join(set(cluster, "certificate-authority", tls.CA), set(user, "client-certificate", tls.Cert), set(user, "client-key", tls.Key)); err != nil {
		return fmt.Errorf("writing kubeconfig %s: %w", file, err)
	}
	data, err := yaml.Marshal(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"clusters":        []any{map[string]any{"name": name, "cluster": cluster}},
		"users":           []any{map[string]any{"name": name, "user": user}},
		"contexts":        []any{map[string]any{"name": name, "context": map[string]string{"cluster": name, "user": name}}},
		"current-context": name,
	})
	if err != nil {
		return fmt.Errorf("writing kubeconfig %s: %w", file, err)
	}
	if err := writeFile(file, data, mode); err != nil {
		return fmt.Errorf("writing kubeconfig %s: %w", file, err)
	}
	return nil
}

// join makes one argument of several values.
func join(values []string) string { return strings.Join(values, ",") }
