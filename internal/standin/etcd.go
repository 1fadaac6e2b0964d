package standin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Etcd is one member of an etcd cluster, with its peers on port 2380 and its clients on 2379 of Address and
// of 127.0.0.1, and its metrics and health on 127.0.0.1:2381.
type Etcd struct {
	// Name is the member's, unique in the cluster.
	Name    string
	DataDir string
	// Address is the IP address that other members reach.
	Address string
	// Server and Peer are this member's certificates, Client is what programs of this host log in with.
	Server, Peer, Client TLSFiles
	// Cluster are the members when this one was added to them, itself included (EtcdClient.AddLearner). Empty
	// means a new cluster of one. It matters only as long as DataDir has no member.
	Cluster []Member
	// ForceNew makes a cluster of one out of the data of a member.
	ForceNew bool
	// LocalOnly is for a look into the data: no TLS, http://127.0.0.1:2399 for clients, no other member.
	LocalOnly bool
	ExtraArgs []string
}

// Member is one in the list of an etcd cluster. One that was never started has no name.
type Member struct {
	ID         uint64   `json:"ID"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"isLearner"`
}

// ErrRemoved says that the cluster no longer counts this member among its own: its data are worth nothing.
var ErrRemoved = errors.New("the member has been removed from the etcd cluster")

// PeerURL is where other members find one with that address.
func PeerURL(address string) string { return "https://" + bracket(address) + ":2380" }

// ClientURL is where clients find a member with that address.
func ClientURL(address string) string { return "https://" + bracket(address) + ":2379" }

func bracket(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

// Exists says whether DataDir holds a member, so that Cluster is ignored.
func (e Etcd) Exists() bool {
	_, err := os.Stat(filepath.Join(e.DataDir, "member"))
	return err == nil
}

// EtcdClient returns a client of this member.
func (e Etcd) EtcdClient(s *Supervisor) EtcdClient {
	if e.LocalOnly {
		return EtcdClient{s: s, endpoints: []string{"http://127.0.0.1:2399"}}
	}
	return EtcdClient{s: s, endpoints: []string{ClientURL("127.0.0.1")}, tls: e.Client}
}

func (e Etcd) process() Process {
	args := []string{
		"--name=" + e.Name, "--data-dir=" + e.DataDir, "--logger=zap", "--log-level=warn",
		"--snapshot-count=10000", "--heartbeat-interval=200", "--election-timeout=2000",
	}
	if e.LocalOnly {
		args = append(args, "--listen-client-urls=http://127.0.0.1:2399", "--advertise-client-urls=http://127.0.0.1:2399",
			"--listen-peer-urls=http://127.0.0.1:2400", "--listen-metrics-urls=http://127.0.0.1:2381", "--force-new-cluster")
		return Process{Name: "etcd", Program: "etcd", Args: args}
	}
	args = append(args,
		"--listen-client-urls="+ClientURL("127.0.0.1")+","+ClientURL(e.Address), "--advertise-client-urls="+ClientURL(e.Address),
		"--listen-peer-urls="+PeerURL("127.0.0.1")+","+PeerURL(e.Address), "--initial-advertise-peer-urls="+PeerURL(e.Address),
		"--listen-metrics-urls=http://127.0.0.1:2381",
		"--client-cert-auth", "--trusted-ca-file="+e.Server.CA, "--cert-file="+e.Server.Cert, "--key-file="+e.Server.Key,
		"--peer-client-cert-auth", "--peer-trusted-ca-file="+e.Peer.CA, "--peer-cert-file="+e.Peer.Cert, "--peer-key-file="+e.Peer.Key,
	)
	state, cluster := "new", []string{e.Name + "=" + PeerURL(e.Address)}
	if len(e.Cluster) > 0 {
		state, cluster = "existing", nil
		for _, m := range e.Cluster {
			name := m.Name
			if len(m.PeerURLs) == 0 {
				continue
			}
			if m.PeerURLs[0] == PeerURL(e.Address) {
				name = e.Name // it has none yet
			}
			cluster = append(cluster, name+"="+m.PeerURLs[0])
		}
	}
	args = append(args, "--initial-cluster-state="+state, "--initial-cluster="+join(cluster))
	if e.ForceNew {
		args = append(args, "--force-new-cluster")
	}
	return Process{Name: "etcd", Program: "etcd", Args: append(args, e.ExtraArgs...)}
}

// Start starts the member and waits until it serves as a voter: a learner until somebody promotes it
// (EtcdClient.PromoteLearners on another member). The error is ErrRemoved if the cluster does not know it.
func (e Etcd) Start(ctx context.Context, s *Supervisor) error {
	if err := os.MkdirAll(e.DataDir, 0o700); err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	if err := s.Start(e.process()); err != nil {
		return err
	}
	client := e.EtcdClient(s)
	err := Until(ctx, 300*time.Millisecond, func(ctx context.Context) error {
		return probe(ctx, http.DefaultClient, "http://127.0.0.1:2381/readyz")
	})
	if err != nil {
		return fmt.Errorf("waiting for etcd: %w", err)
	}
	if e.LocalOnly {
		return nil
	}
	removed := false
	err = Until(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		members, err := client.Members(ctx)
		if err != nil {
			return err
		}
		for _, m := range members {
			if len(m.PeerURLs) > 0 && m.PeerURLs[0] == PeerURL(e.Address) {
				if m.Learner {
					return errors.New("the member is a learner")
				}
				return nil
			}
		}
		removed = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("waiting for etcd: %w", err)
	}
	if removed {
		return ErrRemoved
	}
	return nil
}

// RestoreEtcd makes e.DataDir, which must not exist, out of a snapshot, as a new cluster of one. Revisions go on far
// above those of the snapshot, so that whoever watches notices.
func RestoreEtcd(ctx context.Context, s *Supervisor, e Etcd, snapshot string) error {
	_, err := s.Output(ctx, nil, "etcdutl", "snapshot", "restore", snapshot, "--data-dir="+e.DataDir, "--name="+e.Name,
		"--initial-cluster="+e.Name+"="+PeerURL(e.Address), "--initial-advertise-peer-urls="+PeerURL(e.Address),
		"--bump-revision=1000000000", "--mark-compacted")
	if err != nil {
		return fmt.Errorf("restoring etcd from %s: %w", snapshot, err)
	}
	return nil
}

// EtcdClient speaks to etcd through etcdctl.
type EtcdClient struct {
	s         *Supervisor
	endpoints []string
	tls       TLSFiles
}

// NewEtcdClient returns a client of the members with those client URLs.
func NewEtcdClient(s *Supervisor, endpoints []string, tls TLSFiles) EtcdClient {
	return EtcdClient{s: s, endpoints: endpoints, tls: tls}
}

func (c EtcdClient) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	all := []string{"--endpoints=" + join(c.endpoints), "--command-timeout=15s", "--dial-timeout=3s"}
	if c.tls.Cert != "" {
		all = append(all, "--cacert="+c.tls.CA, "--cert="+c.tls.Cert, "--key="+c.tls.Key)
	}
	return c.s.Output(ctx, stdin, "etcdctl", append(all, args...)...)
}

// Members lists the cluster's members.
func (c EtcdClient) Members(ctx context.Context) ([]Member, error) {
	out, err := c.run(ctx, nil, "member", "list", "-w", "json")
	if err != nil {
		return nil, err
	}
	var list struct{ Members []Member }
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("listing etcd members: %w", err)
	}
	return list.Members, nil
}

// AddLearner adds a member at that address, unless there is one, and returns the members: Etcd.Cluster of the new one.
func (c EtcdClient) AddLearner(ctx context.Context, address string) ([]Member, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if len(m.PeerURLs) > 0 && m.PeerURLs[0] == PeerURL(address) {
			return members, nil
		}
	}
	// The name is not known to etcd before the member has started, whatever is given here.
	if _, err := c.run(ctx, nil, "member", "add", "new", "--learner", "--peer-urls="+PeerURL(address)); err != nil {
		return nil, fmt.Errorf("adding an etcd member: %w", err)
	}
	return c.Members(ctx)
}

// PromoteLearners makes voters of the learners that have caught up, and returns how many learners are left.
func (c EtcdClient) PromoteLearners(ctx context.Context) (int, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return 0, err
	}
	left := 0
	for _, m := range members {
		if !m.Learner {
			continue
		}
		if m.Name == "" {
			left++
			continue
		}
		if _, err := c.run(ctx, nil, "member", "promote", hexID(m.ID)); err != nil {
			left++ // not in sync yet
		}
	}
	return left, nil
}

// Remove removes the member that has this name or this peer URL. None is fine.
func (c EtcdClient) Remove(ctx context.Context, nameOrPeerURL string) error {
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name != nameOrPeerURL && (len(m.PeerURLs) == 0 || m.PeerURLs[0] != nameOrPeerURL) {
			continue
		}
		if _, err := c.run(ctx, nil, "member", "remove", hexID(m.ID)); err != nil {
			return fmt.Errorf("removing etcd member %s: %w", nameOrPeerURL, err)
		}
	}
	return nil
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// Save writes a snapshot to file, mode 0600.
func (c EtcdClient) Save(ctx context.Context, file string) error {
	if _, err := c.run(ctx, nil, "snapshot", "save", file); err != nil {
		return fmt.Errorf("saving an etcd snapshot: %w", err)
	}
	return os.Chmod(file, 0o600)
}

// Get returns the keys with that prefix, and their values.
func (c EtcdClient) Get(ctx context.Context, prefix string) (map[string][]byte, error) {
	out, err := c.run(ctx, nil, "get", "--prefix", prefix, "-w", "json")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Kvs []struct{ Key, Value []byte }
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("reading etcd: %w", err)
	}
	all := map[string][]byte{}
	for _, kv := range answer.Kvs {
		all[string(kv.Key)] = kv.Value
	}
	return all, nil
}

// Put sets a key. The value does not appear among arguments.
func (c EtcdClient) Put(ctx context.Context, key, value string) error {
	_, err := c.run(ctx, strings.NewReader(value), "put", key)
	return err
}

// Delete deletes a key.
func (c EtcdClient) Delete(ctx context.Context, key string) error {
	_, err := c.run(ctx, nil, "del", key)
	return err
}

func probe(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<12))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return nil
}

// SetPeerURL gives the one member of a cluster another peer URL.
func (c EtcdClient) SetPeerURL(ctx context.Context, url string) error {
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	if len(members) != 1 {
		return fmt.Errorf("changing the peer URL: the cluster has %d members, not 1", len(members))
	}
	if _, err := c.run(ctx, nil, "member", "update", hexID(members[0].ID), "--peer-urls="+url); err != nil {
		return fmt.Errorf("changing the peer URL: %w", err)
	}
	return nil
}
