package balancer

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"strings"
	"testing"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/pki"
)

var quiet = log.New(io.Discard, "", 0)

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func serverTLS(t *testing.T, cert, key []byte) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

func TestParse(t *testing.T) {
	one := func(listen, backends, check string) string {
		return `{"listeners":[{"listen":"` + listen + `","backends":[` + backends + `],"check":` + check + `}]}`
	}
	for _, tc := range []struct{ text, want string }{
		{one("127.0.0.1:6443", `"10.0.0.1:6443","[fd00::2]:6443"`, `{"kind":"https","path":"/readyz","caFile":"/etc/ca.crt"}`), ""},
		{one(":6443", `"m1:6443"`, `{"kind":"tls","serverName":"api"}`), ""},
		{one("[::1]:6443", `"m1:6443"`, `{"kind":"tcp"}`), ""},
		{``, "EOF"},
		{`null`, "no listeners"},
		{`{"listeners":[]} more`, "something stands after"},
		{`{"listeners":[],"mode":"rr"}`, "unknown field"},
		{one("127.0.0.1", `"m1:6443"`, `{"kind":"tcp"}`), "not HOST:PORT"},
		{one("fd00::1:6443", `"m1:6443"`, `{"kind":"tcp"}`), "not HOST:PORT"},
		{one(":0", `"m1:6443"`, `{"kind":"tcp"}`), "no port"},
		{one(":6443", ``, `{"kind":"tcp"}`), "no backends"},
		{one(":6443", `":6443"`, `{"kind":"tcp"}`), "no host"},
		{one(":6443", `"m1:70000"`, `{"kind":"tcp"}`), "no port"},
		{one(":6443", `"m1:1","m1:1"`, `{"kind":"tcp"}`), "twice"},
		{one("10.0.0.1:6443", `"10.0.0.1:6443"`, `{"kind":"tcp"}`), "the listener itself"},
		{one(":6443", `"m1:1"`, `{}`), "none of tcp, tls, https"},
		{one(":6443", `"m1:1"`, `{"kind":"udp"}`), "none of tcp, tls, https"},
		{one(":6443", `"m1:1"`, `{"kind":"https"}`), "begin with /"},
		{one(":6443", `"m1:1"`, `{"kind":"tcp","path":"/"}`), "has no path"},
		{one(":6443", `"m1:1"`, `{"kind":"tcp","caFile":"/x"}`), "no caFile"},
		{one(":6443", `"m1:1"`, `{"kind":"tls","caFile":"x"}`), "not absolute"},
	} {
		_, err := Parse([]byte(tc.text))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !errors.Is(err, &node.Error{Kind: node.KindRequest})) {
			t.Errorf("%s: %v, want %q", tc.text, err, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"listeners":[{"listen":"127.0.0.1:6443","backends":["10.0.0.1:6443"],"check":{"kind":"https","path":"/readyz","caFile":"/etc/ca.crt"}}]}`))
	f.Add([]byte(`{"listeners":[{"listen":":1","backends":["[::1]:1"],"check":{"kind":"tcp"}}]}`))
	f.Add([]byte(`{"listeners":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		for _, l := range c.Listeners {
			if l.Listen == "" || len(l.Backends) == 0 || l.Check.Kind == "" {
				t.Errorf("%q was taken: %+v", data, c)
			}
		}
	})
}
