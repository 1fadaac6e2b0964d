package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// The light mode is for tests without a payload: no etcd, no kubelet, no containers, and an API of the few kinds that an
// installer looks at. Its state is one document, of which each member has a copy where etcd would have its database. A
// change is stored at a majority of the voters, so that a cluster without quorum is one here, too.

// document is the state. Of two, the one with the higher revision counts.
type document struct {
	Rev     int64                      `json:"rev"`
	Members map[string]standin.Member  `json:"members"` // by peer URL
	Objects map[string]json.RawMessage `json:"objects"` // by path
}

// lightStore is one member's copy, and the way to the others'.
type lightStore struct {
	d    *daemon
	file string
	name string // this member's
	url  string // its peer URL
	// write is held during a change; changes are made by the leader, the first voter that answers.
	write sync.Mutex
	mu    sync.Mutex
	doc   *document
	peer  *http.Client
}

func (v *vars) lightFile() string { return filepath.Join(v.etcd, "member", "snap", "db") }

func memberID(peerURL string, time int64) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, peerURL, time)
	return h.Sum64()
}

// startLight is startStorage and the API server without programs.
func (d *daemon) startLight(ctx context.Context, name string, cluster []standin.Member) error {
	own := standin.PeerURL(d.config.Spec.Storage.Etcd.PeerAddress)
	l := &lightStore{d: d, file: d.lightFile(), name: name, url: own, doc: &document{Members: map[string]standin.Member{}, Objects: map[string]json.RawMessage{}}}
	if data, err := os.ReadFile(l.file); err == nil {
		if err := json.Unmarshal(data, l.doc); err != nil {
			return fmt.Errorf("reading the database: %w", err)
		}
	} else if len(cluster) == 0 {
		l.doc.Members[own] = standin.Member{ID: memberID(own, time.Now().UnixNano()), Name: name, PeerURLs: []string{own}}
	} else {
		for _, m := range cluster {
			m.Learner = m.PeerURLs[0] == own
			l.doc.Members[m.PeerURLs[0]] = m
		}
	}
	admin := d.tls("ca", "admin")
	pair, err := tls.LoadX509KeyPair(admin.Cert, admin.Key)
	if err != nil {
		return err
	}
	authority, err := d.ca("ca", "")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority.Cert)
	l.peer = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}}
	serving := d.tls("ca", "server")
	pair, err = tls.LoadX509KeyPair(serving.Cert, serving.Key)
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: joinHostPort(d.config.Spec.API.Address, d.config.Spec.API.Port), Handler: &lightAPI{store: l, authority: authority}, ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool},
	}
	if err := serveTLS(ctx, server); err != nil {
		return err
	}
	if d.members, err = d.lightMembers(); err != nil {
		return err
	}
	if len(cluster) > 0 {
		// A learner knows nothing before somebody tells it: the others promote it, and that is a change which comes here as well.
		return standin.Until(ctx, 300*time.Millisecond, func(context.Context) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.doc.Members[own].Learner || l.doc.Rev == 0 {
				return errors.New("the member is a learner")
			}
			return nil
		})
	}
	if _, err := os.Stat(l.file); err != nil {
		return l.save()
	}
	return nil
}

func (l *lightStore) save() error {
	data, err := json.Marshal(l.doc)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.file), 0o700); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(l.file+".part", data, 0o600), os.Rename(l.file+".part", l.file))
}

// accept stores a newer document.
func (l *lightStore) accept(doc *document) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if doc.Rev <= l.doc.Rev {
		return errors.New("conflict")
	}
	l.doc = doc
	return l.save()
}

// api is where the API of the member with that peer URL is.
func (l *lightStore) api(peer string) string {
	host := strings.TrimSuffix(strings.TrimPrefix(peer, "https://"), ":2380")
	return "https://" + joinHostPort(strings.Trim(host, "[]"), l.d.config.Spec.API.Port)
}

// leader is the peer URL of the first voter that answers.
func (l *lightStore) leader(ctx context.Context) string {
	l.mu.Lock()
	members := l.doc.Members
	l.mu.Unlock()
	before := map[string]standin.Member{}
	for peer, m := range members {
		if peer < l.url && !m.Learner {
			before[peer] = m
		}
	}
	answers := slices.Sorted(maps.Keys(l.others(ctx, before, http.MethodGet, nil)))
	if len(answers) == 0 {
		return l.url
	}
	return answers[0]
}

const forwarded = "X-Fake-Forwarded"

// forward lets the leader answer.
func (l *lightStore) forward(w http.ResponseWriter, r *http.Request, leader string) error {
	request, err := http.NewRequestWithContext(r.Context(), r.Method, l.api(leader)+r.URL.RequestURI(), r.Body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	request.Header.Set(forwarded, "1")
	response, err := l.peer.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(response.StatusCode)
	_, err = io.Copy(w, response.Body)
	return err
}

// others calls each other member at once and returns the documents of those that answer well.
func (l *lightStore) others(ctx context.Context, members map[string]standin.Member, method string, send *document) map[string]*document {
	body, err := json.Marshal(send)
	if err != nil {
		return nil
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	answers := map[string]*document{}
	for peer := range members {
		if peer == l.url {
			continue
		}
		wait.Go(func() {
			request, err := http.NewRequestWithContext(ctx, method, l.api(peer)+"/fake/document", bytes.NewReader(body))
			if err != nil {
				return
			}
			response, err := l.peer.Do(request)
			if err != nil {
				return
			}
			defer response.Body.Close()
			doc := &document{}
			if response.StatusCode != http.StatusOK || json.NewDecoder(response.Body).Decode(doc) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[peer] = doc
		})
	}
	wait.Wait()
	return answers
}

var errNoQuorum = errors.New("etcdserver: no leader")

// quorum says whether the members in have are a majority of the voters.
func (l *lightStore) quorum(members map[string]standin.Member, have map[string]*document) bool {
	voters, present := 0, 0
	for peer, m := range members {
		if m.Learner {
			continue
		}
		voters++
		if _, ok := have[peer]; ok || peer == l.url {
			present++
		}
	}
	return present > voters/2
}

// read is the newest document that a majority knows of.
func (l *lightStore) read(ctx context.Context) (*document, error) {
	l.mu.Lock()
	newest := l.doc
	l.mu.Unlock()
	answers := l.others(ctx, newest.Members, http.MethodGet, nil)
	if _, member := newest.Members[l.url]; !member || !l.quorum(newest.Members, answers) {
		return nil, errNoQuorum
	}
	for _, doc := range answers {
		if doc.Rev > newest.Rev {
			newest = doc
		}
	}
	return newest, nil
}

// change applies f to the newest document and stores the result at a majority. Members are told even if the change takes them out.
func (l *lightStore) change(ctx context.Context, f func(*document) error) error {
	l.write.Lock()
	defer l.write.Unlock()
	for range 20 {
		old, err := l.read(ctx)
		if err != nil {
			return err
		}
		next := &document{Rev: old.Rev + 1, Members: maps.Clone(old.Members), Objects: maps.Clone(old.Objects)}
		if err := f(next); err != nil {
			return err
		}
		if l.accept(next) != nil {
			continue // another change was faster
		}
		told := maps.Clone(old.Members)
		maps.Copy(told, next.Members)
		if !l.quorum(next.Members, l.others(ctx, told, http.MethodPut, next)) {
			return errNoQuorum
		}
		return nil
	}
	return errors.New("etcdserver: too many conflicts")
}

// lightAPI serves the document as Kubernetes' API would serve objects.
type lightAPI struct {
	store     *lightStore
	authority standin.CA
}

func (a *lightAPI) refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
}

// caller is admin, node or token, or nobody.
func (a *lightAPI) caller(r *http.Request) string {
	if len(r.TLS.VerifiedChains) > 0 {
		switch organizations := r.TLS.PeerCertificates[0].Subject.Organization; {
		case slices.Contains(organizations, "system:masters"):
			return "admin"
		case slices.Contains(organizations, "system:nodes"):
			return "node"
		}
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	parts := tokenPattern.FindStringSubmatch(bearer)
	if parts == nil {
		return ""
	}
	doc, err := a.store.read(r.Context())
	if err != nil {
		return ""
	}
	var s secret
	if json.Unmarshal(doc.Objects[secretsPath+"/bootstrap-token-"+parts[1]], &s) == nil && s.valid(parts[2]) && s.role() == roleWorker {
		return "token"
	}
	return ""
}

func (a *lightAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch path {
	case "/readyz", "/livez", "/healthz":
		if _, err := a.store.read(r.Context()); err != nil {
			a.refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
		fmt.Fprint(w, "ok")
		return
	case "/version":
		fmt.Fprintf(w, "{%q: %q}", "gitVersion", kubernetesVersion())
		return
	}
	who := a.caller(r)
	allowed := who == "admin" || who == "node" && !strings.HasPrefix(path, "/fake") && !strings.HasPrefix(path, secretsPath) || who == "token" && (strings.HasPrefix(path, requestsPath) || strings.HasPrefix(path, configMapsPath))
	if !allowed {
		a.refuse(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	if r.Method != http.MethodGet && path != "/fake/document" && r.Header.Get(forwarded) == "" {
		if leader := a.store.leader(r.Context()); leader != a.store.url {
			if err := a.store.forward(w, r, leader); err != nil {
				a.refuse(w, http.StatusInternalServerError, err.Error())
			}
			return
		}
	}
	answer, err := a.serve(r, path)
	if err != nil {
		code := http.StatusInternalServerError
		var status *standin.StatusError
		if errors.As(err, &status) {
			code = status.Code
			err = errors.New(status.Message)
		}
		a.refuse(w, code, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer)
}

func (a *lightAPI) serve(r *http.Request, path string) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<24))
	if err != nil {
		return nil, err
	}
	switch path {
	case "/fake/document":
		return a.serveDocument(r, body)
	case "/fake/members":
		return a.serveMembers(r, body)
	}
	if r.Method == http.MethodGet {
		return a.get(r.Context(), path)
	}
	var result []byte
	err = a.store.change(r.Context(), func(doc *document) error {
		result, err = a.apply(doc, r.Method, path, body)
		return err
	})
	return result, err
}

func (a *lightAPI) serveDocument(r *http.Request, body []byte) ([]byte, error) {
	if r.Method == http.MethodPut {
		doc := &document{}
		if err := json.Unmarshal(body, doc); err != nil {
			return nil, err
		}
		if err := a.store.accept(doc); err != nil {
			return nil, &standin.StatusError{Code: http.StatusConflict, Message: err.Error()}
		}
	}
	a.store.mu.Lock()
	defer a.store.mu.Unlock()
	doc := *a.store.doc
	if own, member := doc.Members[a.store.url]; member { // whoever added it did not know the name
		own.Name = a.store.name
		doc.Members = maps.Clone(doc.Members)
		doc.Members[a.store.url] = own
	}
	return json.Marshal(&doc)
}

var kinds = map[string]string{
	"/api/v1/nodes": "Node", "/api/v1/pods": "Pod", secretsPath: "Secret", configMapsPath: "ConfigMap",
	membersPath: "EtcdMember", leasesPath: "Lease", requestsPath: "CertificateSigningRequest",
}

func notFound(path string) error {
	return &standin.StatusError{Code: http.StatusNotFound, Message: fmt.Sprintf("%s %q not found", filepath.Base(filepath.Dir(path)), filepath.Base(path))}
}

func (a *lightAPI) get(ctx context.Context, path string) ([]byte, error) {
	doc, err := a.store.read(ctx)
	if err != nil {
		return nil, err
	}
	if kind, ok := kinds[path]; ok {
		items := []json.RawMessage{}
		for _, key := range slices.Sorted(maps.Keys(doc.Objects)) {
			if strings.HasPrefix(key, path+"/") {
				items = append(items, aged(doc.Objects[key]))
			}
		}
		return json.Marshal(map[string]any{"apiVersion": "v1", "kind": kind + "List", "items": items})
	}
	object, ok := doc.Objects[path]
	if !ok {
		return nil, notFound(path)
	}
	return aged(object), nil
}

func (a *lightAPI) apply(doc *document, method, path string, body []byte) ([]byte, error) {
	key := strings.TrimSuffix(path, "/status")
	old, exists := doc.Objects[key]
	switch {
	case method == http.MethodPost:
		return a.create(doc, path, body)
	case !exists:
		return nil, notFound(key)
	case method == http.MethodDelete:
		delete(doc.Objects, key)
		return []byte(`{"kind":"Status","status":"Success"}`), nil
	case method != http.MethodPatch:
		return nil, &standin.StatusError{Code: http.StatusMethodNotAllowed, Message: "the light API has no " + method}
	}
	var object, patch map[string]any
	if err := errors.Join(json.Unmarshal(old, &object), json.Unmarshal(body, &patch)); err != nil {
		return nil, err
	}
	merge(object, patch)
	result, err := json.Marshal(object)
	doc.Objects[key] = result
	return result, err
}

func (a *lightAPI) create(doc *document, path string, body []byte) ([]byte, error) {
	var object map[string]any
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, err
	}
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	if kinds[path] == "" || name == "" {
		return nil, notFound(path)
	}
	key := path + "/" + name
	if _, taken := doc.Objects[key]; taken {
		return nil, &standin.StatusError{Code: http.StatusConflict, Message: fmt.Sprintf("%q already exists", name)}
	}
	metadata["uid"], metadata["creationTimestamp"] = random(12), time.Now().UTC().Format(time.RFC3339)
	if path == requestsPath {
		if err := a.signRequest(object); err != nil {
			return nil, err
		}
	}
	result, err := json.Marshal(object)
	doc.Objects[key] = result
	return result, err
}

// signRequest signs at once; who may ask has been checked.
func (a *lightAPI) signRequest(object map[string]any) error {
	spec, _ := object["spec"].(map[string]any)
	text, err := json.Marshal(spec["request"])
	if err != nil {
		return err
	}
	var request []byte
	if err := json.Unmarshal(text, &request); err != nil {
		return err
	}
	name, err := requestedName(request)
	if err != nil {
		return err
	}
	public, err := standin.RequestedKey(request)
	if err != nil {
		return err
	}
	cert, err := a.authority.Sign(public, standin.Leaf{CommonName: name, Organizations: []string{"system:nodes"}, Client: true})
	object["status"] = map[string]any{"certificate": cert}
	return err
}

// serveMembers is what etcd's member API is to the real thing.
func (a *lightAPI) serveMembers(r *http.Request, body []byte) ([]byte, error) {
	ctx, l := r.Context(), a.store
	var err error
	switch r.Method {
	case http.MethodPost:
		peer := string(body)
		err = l.change(ctx, func(doc *document) error {
			if _, there := doc.Members[peer]; there {
				return nil
			}
			for _, m := range doc.Members {
				if m.Learner {
					return errors.New("etcdserver: too many learner members in cluster")
				}
			}
			doc.Members[peer] = standin.Member{ID: memberID(peer, doc.Rev), PeerURLs: []string{peer}, Learner: true}
			return nil
		})
	case http.MethodDelete:
		peer := r.URL.Query().Get("peer")
		err = l.change(ctx, func(doc *document) error {
			delete(doc.Members, peer)
			if len(doc.Members) == 0 {
				return errors.New("etcdserver: re-configuration failed due to not enough started members")
			}
			if !l.quorum(doc.Members, l.others(ctx, doc.Members, http.MethodGet, nil)) && peer != l.url {
				return errors.New("etcdserver: re-configuration failed due to not enough started members")
			}
			return nil
		})
	case http.MethodPatch: // promote who answers
		doc, readErr := l.read(ctx)
		if readErr != nil {
			return nil, readErr
		}
		answers := l.others(ctx, doc.Members, http.MethodGet, nil)
		for peer, m := range doc.Members {
			if answers[peer] == nil || !m.Learner {
				continue
			}
			m.Name = answers[peer].Members[peer].Name
			err = l.change(ctx, func(doc *document) error {
				m.Learner = false
				doc.Members[peer] = m
				return nil
			})
		}
	}
	if err != nil {
		return nil, err
	}
	doc, err := l.read(ctx)
	if err != nil {
		if r.Method == http.MethodDelete {
			return []byte("[]"), nil // it was this member that went
		}
		return nil, err
	}
	return json.Marshal(slices.Collect(maps.Values(doc.Members)))
}

// lightMemberStore speaks to this host's API.
type lightMemberStore struct{ client *standin.Client }

func (v *vars) lightMembers() (memberStore, error) {
	client, err := adminClient(v)
	return lightMemberStore{client}, err
}

func (s lightMemberStore) call(ctx context.Context, method, query, body string) ([]standin.Member, error) {
	data, err := s.client.Raw(ctx, method, "/fake/members"+query, "text/plain", []byte(body))
	if err != nil {
		return nil, err
	}
	var members []standin.Member
	err = json.Unmarshal(data, &members)
	slices.SortFunc(members, func(a, b standin.Member) int { return strings.Compare(a.Name, b.Name) })
	return members, err
}

func (s lightMemberStore) Members(ctx context.Context) ([]standin.Member, error) {
	return s.call(ctx, http.MethodGet, "", "")
}

func (s lightMemberStore) AddLearner(ctx context.Context, address string) ([]standin.Member, error) {
	return s.call(ctx, http.MethodPost, "", standin.PeerURL(address))
}

func (s lightMemberStore) Remove(ctx context.Context, peerURL string) error {
	_, err := s.call(ctx, http.MethodDelete, "?peer="+url.QueryEscape(peerURL), "")
	return err
}

func (s lightMemberStore) PromoteLearners(ctx context.Context) (int, error) {
	_, err := s.call(ctx, http.MethodPatch, "", "")
	return 0, err
}

// lightSnapshot and lightRestore are backup and restore of the document.
func (v *vars) lightSnapshot(file string) error {
	data, err := os.ReadFile(v.lightFile())
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

func (v *vars) lightRestore(config *ClusterConfig, snapshot string) error {
	data, err := os.ReadFile(snapshot)
	if err != nil {
		return err
	}
	doc := &document{}
	if err := json.Unmarshal(data, doc); err != nil {
		return err
	}
	name, err := hostname()
	if err != nil {
		return err
	}
	own := standin.PeerURL(config.Spec.Storage.Etcd.PeerAddress)
	doc.Rev += 1_000_000
	doc.Members = map[string]standin.Member{own: {ID: memberID(own, time.Now().UnixNano()), Name: name, PeerURLs: []string{own}}}
	return (&lightStore{file: v.lightFile(), doc: doc}).save()
}

// merge merges maps; a null deletes, and conditions are merged by their type.
func merge(to, patch map[string]any) {
	for key, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(to, key)
		case map[string]any:
			sub, ok := to[key].(map[string]any)
			if !ok {
				sub = map[string]any{}
			}
			merge(sub, value)
			to[key] = sub
		default:
			to[key] = value
		}
	}
}

// aged is a Node as it looks now: one that was not heard of for a while is not Ready.
func aged(object json.RawMessage) json.RawMessage {
	var n map[string]any
	if json.Unmarshal(object, &n) != nil || n["kind"] != "Node" {
		return object
	}
	status, _ := n["status"].(map[string]any)
	conditions, _ := status["conditions"].([]any)
	for _, item := range conditions {
		c, _ := item.(map[string]any)
		text, _ := c["lastHeartbeatTime"].(string)
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil && time.Since(at) > 6*time.Second {
			c["status"], c["reason"] = "Unknown", "NodeStatusUnknown"
		}
	}
	data, err := json.Marshal(n)
	if err != nil {
		return object
	}
	return data
}
