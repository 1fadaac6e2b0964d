package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// The light mode is for tests without the payload: no etcd, no kubelet, an API of a few objects. Its state is one
// document that every server has a copy of. A change takes a lock, reads and writes at a majority of the servers.

// lightState is the document. Of two, the one with the higher revision counts, then the later.
type lightState struct {
	Rev, Time int64
	Members   map[string]string          // name to host:port
	Objects   map[string]json.RawMessage // path to object
}

func (s *lightState) newer(t *lightState) bool {
	return s.Rev > t.Rev || s.Rev == t.Rev && s.Time > t.Time
}

func (s *lightState) clone() *lightState {
	return &lightState{Rev: s.Rev, Time: s.Time, Members: maps.Clone(s.Members), Objects: maps.Clone(s.Objects)}
}

// lightStore is one server's copy.
type lightStore struct {
	name, file string
	ca         []byte
	password   func() string
	write      sync.Mutex // one change at a time by this server
	mu         sync.Mutex
	state      *lightState
	owner      string // of the lock
	until      time.Time
}

type lightMessage struct {
	Op    string // read, lock, unlock, store
	Owner string
	State *lightState
}

// answer is what one server says to a message.
func (l *lightStore) answer(m lightMessage) (*lightState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch m.Op {
	case "read":
	case "lock":
		if l.owner != "" && l.owner != m.Owner && time.Now().Before(l.until) {
			return nil, errors.New("locked")
		}
		l.owner, l.until = m.Owner, time.Now().Add(5*time.Second)
	case "unlock":
		if l.owner == m.Owner {
			l.owner = ""
		}
	case "store":
		if m.State == nil || !m.State.newer(l.state) {
			return nil, errors.New("conflict")
		}
		data, err := json.Marshal(m.State)
		if err != nil {
			return nil, err
		}
		if err := writeSecret(l.file, string(data)); err != nil {
			return nil, err
		}
		l.state = m.State
	default:
		return nil, errors.New("unknown operation")
	}
	return l.state, nil
}

// ServeHTTP answers other servers.
func (l *lightStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m lightMessage
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	state, err := l.answer(m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, state)
}

// ask sends a message to every server and returns the answers of those that agree.
func (l *lightStore) ask(ctx context.Context, members map[string]string, m lightMessage) []*lightState {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	body, _ := json.Marshal(m)
	answers := make(chan *lightState, len(members))
	for name, address := range members {
		go func() {
			if name == l.name {
				state, err := l.answer(m)
				if err != nil {
					state = nil
				}
				answers <- state
				return
			}
			a := &access{url: "https://" + address, ca: l.ca, user: "server", password: l.password()}
			var state *lightState
			if a.secure(nil) == nil {
				if data, err := a.do(ctx, http.MethodPost, "/v1-k3s/light/", nil, body); err == nil {
					_ = json.Unmarshal(data, &state)
				}
				a.client.CloseIdleConnections()
			}
			answers <- state
		}()
	}
	var all []*lightState
	for range members {
		if s := <-answers; s != nil {
			all = append(all, s)
		}
	}
	return all
}

var errNoQuorum = errors.New("etcdserver: no leader")

// read is the newest state that a majority knows.
func (l *lightStore) read(ctx context.Context) (*lightState, error) {
	l.mu.Lock()
	members := l.state.Members
	l.mu.Unlock()
	all := l.ask(ctx, members, lightMessage{Op: "read"})
	if len(all) < len(members)/2+1 {
		return nil, errNoQuorum
	}
	newest := all[0]
	for _, s := range all {
		if s.newer(newest) {
			newest = s
		}
	}
	if _, own := newest.Members[l.name]; own {
		_, _ = l.answer(lightMessage{Op: "store", State: newest}) // refuses unless newer
	}
	return newest, nil
}

// change applies f to the newest state and stores the result at a majority.
func (l *lightStore) change(ctx context.Context, f func(*lightState) error) error {
	l.write.Lock()
	defer l.write.Unlock()
	owner := l.name + randomHex(4)
	for range 40 {
		l.mu.Lock()
		members := l.state.Members
		l.mu.Unlock()
		locked := l.ask(ctx, members, lightMessage{Op: "lock", Owner: owner})
		if len(locked) < len(members)/2+1 {
			l.ask(ctx, members, lightMessage{Op: "unlock", Owner: owner})
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		defer l.ask(context.WithoutCancel(ctx), members, lightMessage{Op: "unlock", Owner: owner})
		old, err := l.read(ctx)
		if err != nil {
			return err
		}
		next := old.clone()
		if err := f(next); err != nil {
			return err
		}
		next.Rev, next.Time = old.Rev+1, time.Now().UnixNano()
		all := maps.Clone(members)
		maps.Copy(all, next.Members)
		if stored := l.ask(ctx, all, lightMessage{Op: "store", State: next}); len(stored) < len(next.Members)/2+1 {
			return errNoQuorum
		}
		return nil
	}
	return errNoQuorum
}

func (l *lightStore) memberList() []standin.Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []standin.Member
	for name, address := range l.state.Members {
		list = append(list, standin.Member{Name: name, PeerURLs: []string{address}})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

func (l *lightStore) removeMember(ctx context.Context, name string) error {
	return l.change(ctx, func(s *lightState) error {
		if s.Members[name] == "" || len(s.Members) == 1 {
			return nil
		}
		delete(s.Members, name)
		if alive := l.ask(ctx, s.Members, lightMessage{Op: "read"}); len(alive) < len(s.Members)/2+1 {
			return errors.New("etcdserver: re-configuration failed due to not enough started members")
		}
		return nil
	})
}

// Get, Put and Delete make it a keyStore, for bootstrap data.
func (l *lightStore) Get(ctx context.Context, prefix string) (map[string][]byte, error) {
	state, err := l.read(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for key, value := range state.Objects {
		if strings.HasPrefix(key, prefix) {
			var text string
			if err := json.Unmarshal(value, &text); err != nil {
				return nil, err
			}
			all[key] = []byte(text)
		}
	}
	return all, nil
}

// Put sets a key.
func (l *lightStore) Put(ctx context.Context, key, value string) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return l.change(ctx, func(s *lightState) error { s.Objects[key] = data; return nil })
}

// Delete deletes a key.
func (l *lightStore) Delete(ctx context.Context, key string) error {
	return l.change(ctx, func(s *lightState) error { delete(s.Objects, key); return nil })
}

// runLight is run without the payload.
func (v *srv) runLight(asked context.Context, joined *access) error {
	ctx, cancel := context.WithCancelCause(asked)
	defer cancel(nil)
	c := v.c
	name, err := c.memberName()
	if err != nil {
		return err
	}
	address := net.JoinHostPort(c.address(), c.or("https-listen-port", "6443"))
	l := &lightStore{name: name, file: c.path("server", "db", "light.json"), ca: v.ca.server.CertPEM, state: &lightState{Members: map[string]string{name: address}, Objects: map[string]json.RawMessage{}}}
	l.password = func() string { return v.supervisor.passwords().server }
	if data, err := os.ReadFile(l.file); err == nil {
		if err := json.Unmarshal(data, l.state); err != nil {
			return err
		}
	}
	v.light, v.supervisor.light = l, l
	if err := v.supervisor.listen(ctx); err != nil {
		return fatalStart(err)
	}
	if joined != nil {
		if err := v.joinLight(ctx, joined, address); err != nil {
			return fatalStart(err)
		}
	} else if err := standin.Until(ctx, time.Second, func(ctx context.Context) error { _, err := l.read(ctx); return err }); err != nil {
		return quiet(ctx, err)
	}
	if err := c.reconcile(ctx, l, v.supervisor.passwords().server); err != nil {
		return fatalStart(err)
	}
	if v.admin, err = standin.KubeconfigClient(c.path("server", "cred", "admin.kubeconfig"), ""); err != nil {
		return err
	}
	api := v.lightAPI()
	v.supervisor.admin.Store(v.admin)
	v.supervisor.api.Store(&api)
	own := &access{url: "https://127.0.0.1:" + c.or("https-listen-port", "6443"), ca: v.ca.server.CertPEM, user: "server", password: l.password()}
	if err := own.secure(nil); err != nil {
		return err
	}
	if err := c.credentials(ctx, own); err != nil {
		return quiet(ctx, err)
	}
	go v.control(ctx)
	go func() { // is this server still a member?
		for ctx.Err() == nil {
			if state, err := l.read(ctx); err == nil && state.Members[name] == "" {
				cancel(errRemoved)
			}
			time.Sleep(500 * time.Millisecond)
		}
	}()
	err = c.runLightNode(ctx, c.tls("client-admin"), func(ctx context.Context) { logf("info", "k3s is up and running"); ready(ctx) })
	if context.Cause(ctx) == errRemoved { //nolint:errorlint // it is never wrapped
		return v.leave(asked)
	}
	return quiet(ctx, err)
}

// joinLight adds this server to the members, by way of the server it joins.
func (v *srv) joinLight(ctx context.Context, a *access, address string) error {
	l := v.light
	return standin.Until(ctx, time.Second, func(ctx context.Context) error {
		body, _ := json.Marshal(lightMessage{Op: "read"})
		data, err := a.do(ctx, http.MethodPost, "/v1-k3s/light/", nil, body)
		if err != nil {
			return err
		}
		state := &lightState{}
		if err := json.Unmarshal(data, state); err != nil {
			return err
		}
		if state.Members[l.name] == "" {
			for name := range state.Members {
				if strings.HasPrefix(name, v.c.nodeName+"-") && len(name) == len(v.c.nodeName)+9 {
					return errors.New("duplicate node name found, please use a unique name for this node")
				}
			}
		}
		l.mu.Lock()
		l.state = state.clone()
		l.mu.Unlock()
		return l.change(ctx, func(s *lightState) error { s.Members[l.name] = address; return nil })
	})
}

// runLightNode registers a Node and keeps it alive, until ctx ends. cert is without its ending.
func (c *config) runLightNode(ctx context.Context, cert string, up func(context.Context)) error {
	server := c.apiURL()
	if c.server {
		server = "https://127.0.0.1:" + c.or("https-listen-port", "6443")
	}
	client, err := standin.NewClient(server, standin.TLSFiles{CA: c.agentFile("server-ca.crt"), Cert: cert + ".crt", Key: cert + ".key"})
	if err != nil {
		return err
	}
	started := false
	for ctx.Err() == nil {
		err := c.heartbeat(ctx, client)
		if err == nil && !started {
			started = true
			up(ctx)
		}
		if err != nil && ctx.Err() == nil {
			logf("error", "heartbeat: %v", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// lightVersion is what kubelet would be.
func lightVersion() string { return strings.Split(version, " ")[0] }

func (c *config) heartbeat(ctx context.Context, client *standin.Client) error {
	now := time.Now().UTC().Format(time.RFC3339Nano)
	status := map[string]any{
		"addresses":  []any{map[string]string{"type": "InternalIP", "address": c.address()}, map[string]string{"type": "Hostname", "address": c.nodeName}},
		"conditions": []any{map[string]string{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}},
		"nodeInfo":   map[string]string{"kubeletVersion": lightVersion(), "architecture": "light"},
	}
	err := client.PatchStrategic(ctx, nodePath(c.nodeName)+"/status", map[string]any{"status": status})
	if !standin.IsStatus(err, http.StatusNotFound) {
		return err
	}
	labels := map[string]string{"kubernetes.io/hostname": c.nodeName, "kubernetes.io/os": "linux"}
	for _, l := range c.list("node-label") {
		k, value, _ := strings.Cut(l, "=")
		labels[k] = value
	}
	return client.Create(ctx, "/api/v1/nodes", map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": c.nodeName, "labels": labels, "annotations": map[string]string{}}, "spec": map[string]any{}, "status": status,
	})
}

// lightAPI is an API of objects by path: nodes and secrets, as much as installers look at.
func (v *srv) lightAPI() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimSuffix(r.URL.Path, "/")
		switch path {
		case "/readyz", "/livez", "/healthz":
			if _, err := v.light.read(r.Context()); err != nil {
				status(w, http.StatusInternalServerError, err.Error())
				return
			}
			fmt.Fprint(w, "ok")
			return
		case "/version":
			writeJSON(w, map[string]string{"gitVersion": lightVersion()})
			return
		}
		if who := v.supervisor.authenticate(r); who == "" || who != "server" && strings.Contains(path, "/secrets") {
			status(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		if err := v.lightRequest(w, r, path); err != nil {
			code := http.StatusInternalServerError
			var known *standin.StatusError
			if errors.As(err, &known) {
				code = known.Code
			}
			status(w, code, err.Error())
		}
	})
}

func status(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
}

var collections = map[string]string{"/api/v1/nodes": "Node", "/api/v1/namespaces/kube-system/secrets": "Secret", "/api/v1/pods": "Pod", "/api/v1/namespaces/kube-system/configmaps": "ConfigMap"}

func (v *srv) lightRequest(w http.ResponseWriter, r *http.Request, path string) error {
	notFound := &standin.StatusError{Code: http.StatusNotFound, Message: path + " not found"}
	if kind, ok := collections[path]; ok && r.Method == http.MethodGet {
		state, err := v.light.read(r.Context())
		if err != nil {
			return err
		}
		items := []json.RawMessage{}
		for _, key := range sortedKeys(state.Objects) {
			if strings.HasPrefix(key, path+"/") {
				items = append(items, aged(state.Objects[key]))
			}
		}
		writeJSON(w, map[string]any{"apiVersion": "v1", "kind": kind + "List", "items": items})
		return nil
	}
	if r.Method == http.MethodGet {
		state, err := v.light.read(r.Context())
		if err != nil {
			return err
		}
		object, ok := state.Objects[path]
		if !ok {
			return notFound
		}
		_, err = w.Write(aged(object))
		return err
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return err
	}
	var result json.RawMessage
	err = v.light.change(r.Context(), func(s *lightState) error {
		key := strings.TrimSuffix(path, "/status")
		old, exists := s.Objects[key]
		switch r.Method {
		case http.MethodPost:
			var object map[string]any
			if err := json.Unmarshal(body, &object); err != nil {
				return err
			}
			meta, _ := object["metadata"].(map[string]any)
			name, _ := meta["name"].(string)
			if collections[path] == "" || name == "" {
				return notFound
			}
			key = path + "/" + name
			if _, taken := s.Objects[key]; taken {
				return &standin.StatusError{Code: http.StatusConflict, Message: name + " already exists"}
			}
			meta["uid"], meta["creationTimestamp"] = randomHex(16), time.Now().UTC().Format(time.RFC3339)
			result, err = json.Marshal(object)
			s.Objects[key] = result
			return err
		case http.MethodPatch:
			if !exists {
				return notFound
			}
			var object, patch map[string]any
			if err := errors.Join(json.Unmarshal(old, &object), json.Unmarshal(body, &patch)); err != nil {
				return err
			}
			merge(object, patch)
			result, err = json.Marshal(object)
			s.Objects[key] = result
			return err
		case http.MethodDelete:
			if !exists {
				return notFound
			}
			delete(s.Objects, key)
			result = json.RawMessage(`{"kind":"Status","status":"Success"}`)
			return nil
		}
		return &standin.StatusError{Code: http.StatusMethodNotAllowed, Message: "the light API has no " + r.Method}
	})
	if err != nil {
		return err
	}
	_, err = w.Write(result)
	return err
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
		case []any:
			if key == "conditions" {
				to[key] = mergeConditions(to[key], value)
			} else {
				to[key] = value
			}
		default:
			to[key] = value
		}
	}
}

func mergeConditions(old any, more []any) []any {
	list, _ := old.([]any)
	kindOf := func(v any) any { m, _ := v.(map[string]any); return m["type"] }
	for _, n := range more {
		found := false
		for i := range list {
			if kindOf(list[i]) == kindOf(n) {
				list[i], found = n, true
			}
		}
		if !found {
			list = append(list, n)
		}
	}
	return list
}

// aged is a Node as it is to be seen now: one that has not been heard of for a while is not Ready.
func aged(object json.RawMessage) json.RawMessage {
	var n map[string]any
	if json.Unmarshal(object, &n) != nil || n["kind"] != "Node" {
		return object
	}
	state, _ := n["status"].(map[string]any)
	conditions, _ := state["conditions"].([]any)
	for _, item := range conditions {
		c, _ := item.(map[string]any)
		text, _ := c["lastHeartbeatTime"].(string)
		if at, err := time.Parse(time.RFC3339Nano, text); c["type"] == "Ready" && err == nil && time.Since(at) > 6*time.Second {
			c["status"], c["reason"] = "Unknown", "NodeStatusUnknown"
		}
	}
	data, err := json.Marshal(n)
	if err != nil {
		return object
	}
	return data
}
