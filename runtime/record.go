package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/internal/atomicfile"
)

// Record is what the operator's machine keeps of a cluster: enough to reach it again. Nothing in it
// is secret.
type Record struct {
	Name       string            `json:"name"`
	UID        string            `json:"uid"`
	Image      string            `json:"image"`
	Digest     digest.Digest     `json:"digest"`
	Runtime    string            `json:"runtime"`
	Nodes      []RecordNode      `json:"nodes"`
	Kubeconfig string            `json:"kubeconfig,omitempty"`
	Login      map[string]string `json:"login,omitempty"`
	// Complete says that a run went through to its end at Time.
	Complete bool      `json:"complete"`
	Time     time.Time `json:"time"`
}

// RecordNode is a host of the cluster.
type RecordNode struct {
	Address Address `json:"address"`
	Role    Role    `json:"role"`
	Name    string  `json:"name,omitempty"`
	IP      string  `json:"ip,omitempty"`
	// Joined says that a run that ended well had the host.
	Joined bool `json:"joined,omitempty"`
}

// Join adds to nodes the hosts that are part of the cluster already, so that who adds one need not name
// the others. A nil Record has none.
func (r *Record) Join(nodes []*Node) []*Node {
	if r == nil {
		return nodes
	}
	for _, n := range r.Nodes {
		if n.Joined && !slices.ContainsFunc(nodes, func(m *Node) bool { return m.Address == n.Address }) {
			nodes = append(nodes, n.node())
		}
	}
	return nodes
}

func (n RecordNode) node() *Node {
	return &Node{Address: n.Address, Role: n.Role, Name: n.Name, IP: n.IP}
}

const recordFile = "cluster.json"

// LoadRecord reads the record in an operator's directory of a cluster; nil if there is none.
func LoadRecord(dir string) (*Record, error) {
	if dir == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading record: %w", err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("reading record %s: %w", filepath.Join(dir, recordFile), err)
	}
	return &r, nil
}

// Cluster is a cluster to ask for its Status or to Reset; the caller adds how to connect.
func (r *Record) Cluster(dir string, drivers []Driver) *Cluster {
	c := &Cluster{Name: r.Name, UID: r.UID, Dir: dir, Kubeconfig: r.Kubeconfig, Login: r.Login}
	for _, n := range r.Nodes {
		c.Nodes = append(c.Nodes, n.node())
	}
	for _, d := range drivers {
		if d.Name() == r.Runtime {
			c.Driver = d
		}
	}
	return c
}

// record writes the record. Hosts of an earlier run of the same cluster stay in it, so that a reset
// finds them; those that a restore was not asked to take are no part of the cluster any more.
func (c *Cluster) record(complete bool) error {
	if c.Dir == "" {
		return nil
	}
	old, err := LoadRecord(c.Dir)
	if err != nil {
		return err
	}
	r := Record{
		Name: c.Name, UID: c.UID, Image: c.Image.Name, Digest: c.Image.Target.Digest, Runtime: c.Driver.Name(),
		Kubeconfig: c.Kubeconfig, Login: c.Login, Complete: complete, Time: time.Now().UTC().Truncate(time.Second),
	}
	for _, n := range c.Nodes {
		joined := complete || old != nil && old.UID == c.UID && slices.ContainsFunc(old.Nodes, func(o RecordNode) bool { return o.Address == n.Address && o.Joined })
		r.Nodes = append(r.Nodes, RecordNode{Address: n.Address, Role: n.Role, Name: n.Name, IP: n.IP, Joined: joined})
	}
	if old != nil && old.UID == c.UID && c.backup == nil {
		for _, o := range old.Nodes {
			if !slices.ContainsFunc(r.Nodes, func(n RecordNode) bool { return n.Address == o.Address }) {
				r.Nodes = append(r.Nodes, o)
			}
		}
	}
	return writeRecord(c.Dir, r)
}

func writeRecord(dir string, r Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding record: %w", err)
	}
	return writePrivate(filepath.Join(dir, recordFile), append(data, '\n'))
}

// writePrivate writes a file for its owner alone, making the directory.
func writePrivate(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return atomicfile.Write(path, data, 0o600)
}
