package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// guard is the innermost transport: whatever the layers above want, nothing leaves while offline,
// nothing goes over plain HTTP to a host that is not loopback or named insecure, and a certificate is
// not verified only for a host named insecure.
type guard struct {
	offline  bool
	insecure insecureSet
	certDir  string
	custom   http.RoundTripper // takes all requests, if not nil
	template *http.Transport

	mu     sync.Mutex
	byHost map[string]http.RoundTripper
}

func newGuard(o Options) *guard {
	g := &guard{offline: o.Offline, insecure: o.Insecure, certDir: o.CertDir, byHost: map[string]http.RoundTripper{}}
	switch t := o.Transport.(type) {
	case nil:
		g.template = newTransport(o.Proxy, max(o.Parallelism, 1)+maxDocuments)
	case *http.Transport:
		g.template = t.Clone()
	default:
		g.custom = t
	}
	return g
}

func newTransport(proxy func(*http.Request) (*url.URL, error), connections int) *http.Transport {
	return &http.Transport{
		Proxy:               proxy,
		DialContext:         (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        4 * connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     60 * time.Second,
		TLSHandshakeTimeout: 20 * time.Second,
		// A blob is stored as it is; nothing may be decoded on the way.
		DisableCompression: true,
		WriteBufferSize:    64 << 10,
		ReadBufferSize:     64 << 10,
	}
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host
	if g.offline {
		return nil, closeBody(req, fmt.Errorf("connecting to %s: %w", host, ErrOffline))
	}
	if req.URL.Scheme != "https" && !g.plain(req) {
		return nil, closeBody(req, fmt.Errorf("connecting to %s: %w", host, ErrPlainHTTP))
	}
	rt, err := g.transport(host)
	if err != nil {
		return nil, closeBody(req, err)
	}
	if err := renewBody(req); err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	if w, ok := req.Context().Value(waitKey{}).(*wait); ok {
		w.note(resp)
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) && g.plain(req) {
		// Not the end: plain HTTP, which is allowed, is tried next.
		return resp, errPlainSpoken
	}
	return resp, err
}

var errPlainSpoken = errors.New("the registry speaks plain HTTP")

// plain says whether plain HTTP is allowed to the request's host.
func (g *guard) plain(req *http.Request) bool {
	host := req.URL.Host
	if Loopback(host) || g.insecure.has(host) {
		return true
	}
	// A registry named insecure may lead to its storage on another host.
	origin, _ := req.Context().Value(originKey{}).(string)
	return origin != "" && g.insecure.has(origin)
}

// transport returns the way to a host: the shared one, or one of its own where its certificates differ.
func (g *guard) transport(host string) (http.RoundTripper, error) {
	if g.custom != nil {
		return g.custom, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if rt, ok := g.byHost[host]; ok {
		return rt, nil
	}
	cfg, err := certificates(g.certDir, host)
	if err != nil {
		return nil, err
	}
	rt := g.template
	if cfg != nil || g.insecure.has(host) {
		rt = g.template.Clone()
		if rt.TLSClientConfig == nil {
			rt.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if cfg != nil {
			rt.TLSClientConfig.RootCAs = cfg.RootCAs
			rt.TLSClientConfig.Certificates = cfg.Certificates
		}
		// Whoever runs keg named this host insecure.
		rt.TLSClientConfig.InsecureSkipVerify = g.insecure.has(host)
	}
	g.byHost[host] = rt
	return rt, nil
}

func closeBody(req *http.Request, err error) error {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return err
}

// originKey carries, in a request's context, the host the request was meant for before redirects.
type originKey struct{}

// sentKey carries a *bool that says that the request's body was read before.
type sentKey struct{}

// withRequest prepares ctx for one request to host.
func withRequest(ctx context.Context, host string) context.Context {
	ctx = context.WithValue(ctx, originKey{}, host)
	return context.WithValue(ctx, sentKey{}, new(bool))
}

// renewBody replaces the body of a request that is sent for the second time: the authenticating layer
// above sends a request again, body and all, after a token expired.
func renewBody(req *http.Request) error {
	sent, _ := req.Context().Value(sentKey{}).(*bool)
	if sent == nil || req.Body == nil || req.GetBody == nil {
		return nil
	}
	if !*sent {
		*sent = true
		return nil
	}
	_ = req.Body.Close()
	body, err := req.GetBody()
	if err != nil {
		return fmt.Errorf("reading what to send again: %w", err)
	}
	req.Body = body
	return nil
}

// insecureSet is Options.Insecure.
type insecureSet []string

func (s insecureSet) has(host string) bool {
	return slices.ContainsFunc(s, func(e string) bool { return e == "*" || e == host || e == hostname(host) })
}

// hostname cuts the port off; an IPv6 address loses its brackets too.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// Loopback says whether host, with or without a port, is this machine, by its name alone: localhost,
// 127.0.0.0/8 or ::1. Only there plain HTTP needs no permission.
func Loopback(host string) bool {
	h := hostname(host)
	ip := net.ParseIP(h)
	return h == "localhost" || ip != nil && ip.IsLoopback()
}
