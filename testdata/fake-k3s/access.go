package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// access is a connection to the supervisor of a server, whose CA has been checked against the token.
type access struct {
	url      string
	ca       []byte // PEM
	client   *http.Client
	user     string
	password string
	bearer   string
}

// errStatus is an answer other than 200.
type errStatus struct {
	url, status, body string
}

func (e *errStatus) Error() string {
	if e.body != "" {
		return fmt.Sprintf("%s: %s: %s", e.url, e.status, e.body)
	}
	return e.url + ": " + e.status
}

// newAccess fetches the CA of the server and checks it against the hash in the token. user is server or node: what
// the caller wants to be, whatever the token says.
func newAccess(ctx context.Context, url string, t token, user string) (*access, error) {
	url = strings.TrimRight(url, "/")
	insecure := &http.Client{Timeout: 10 * time.Second, Transport: insecureTransport()}
	ca, err := request(ctx, insecure, http.MethodGet, url+"/cacerts", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("failed to get CA certs: %w", err)
	}
	block, _ := pem.Decode(ca)
	if block == nil {
		return nil, fmt.Errorf("failed to get CA certs: %s/cacerts has no certificate", url)
	}
	sum := sha256.Sum256(block.Bytes)
	if hash := hex.EncodeToString(sum[:]); t.caHash == "" {
		logf("warning", "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA hash. Use the full token from the server's node-token file to enable Cluster CA validation.")
	} else if hash != t.caHash {
		return nil, fmt.Errorf("token CA hash does not match the Cluster CA certificate hash: %s != %s", t.caHash, hash)
	}
	a := &access{url: url, ca: ca, user: user, password: t.password, bearer: t.bootstrap}
	if err := a.secure(nil); err != nil {
		return nil, err
	}
	if _, err := request(ctx, a.client, http.MethodGet, url+"/cacerts", nil, nil); err != nil {
		return nil, fmt.Errorf("CA cert validation failed: %w", err)
	}
	return a, nil
}

// secure makes the client that trusts the CA, with a client certificate if there is one.
func (a *access) secure(cert *tls.Certificate) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.ca) {
		return errors.New("the server's CA bundle has no certificate")
	}
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	a.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: config, IdleConnTimeout: 10 * time.Second}}
	return nil
}

// withCertificate is an access that is known by a client certificate rather than the token.
func (a *access) withCertificate(certFile, keyFile string) (*access, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	other := &access{url: a.url, ca: a.ca}
	return other, other.secure(&cert)
}

func (a *access) do(ctx context.Context, method, path string, header map[string]string, body []byte) ([]byte, error) {
	h := map[string]string{}
	for k, v := range header {
		h[k] = v
	}
	r, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range h {
		r.Header.Set(k, v)
	}
	switch {
	case a.bearer != "":
		r.Header.Set("Authorization", "Bearer "+a.bearer)
	case a.password != "":
		r.SetBasicAuth(a.user, a.password)
	}
	return send(a.client, r)
}

func request(ctx context.Context, client *http.Client, method, url string, header map[string]string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	return send(client, r)
}

func send(client *http.Client, r *http.Request) ([]byte, error) {
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, &errStatus{url: r.URL.String(), status: response.Status, body: strings.TrimSpace(string(data))}
	}
	return data, nil
}

// nodePassword is the secret that proves that a host is the one which joined under its name.
func nodePassword() (string, error) {
	const file = "/etc/rancher/node/password"
	data, err := os.ReadFile(hostFile(file))
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	password := randomHex(16)
	return password, writeSecret(hostFile(file), password+"\n")
}

func insecureTransport() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
}
