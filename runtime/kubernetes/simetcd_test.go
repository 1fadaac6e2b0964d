package kubernetes

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// addMember makes etcd know a member.
func (s *sim) addMember(ip string, learner bool) {
	s.lastID++
	s.members[ip] = &simMember{id: s.lastID, learner: learner}
}

// healthy says whether the member on a machine answers.
func (s *sim) healthy(ip string) bool {
	m := s.machines[ip]
	return m != nil && !m.off && m.host.File(etcdManifest) != nil && m.host.File("/var/lib/etcd/member") != nil
}

// quorum says whether etcd has a majority.
func (s *sim) quorum() bool {
	voters, well := 0, 0
	for ip, m := range s.members {
		if m.learner {
			continue
		}
		voters++
		if s.healthy(ip) {
			well++
		}
	}
	return well > voters/2
}

func (m *machine) writeAuthorities() {
	for _, name := range authorities {
		m.host.Write(pkiDir+"/"+name, string(m.sim.ca))
	}
	m.host.Write(pkiDir+"/apiserver.crt", string(m.sim.ca))
}

// joinMaster is what kubeadm join does for a control plane before it is a node; cut in its middle, its
// member has become a voter, and nothing after that is done.
func (m *machine) joinMaster(args []string) error {
	s := m.sim
	for _, name := range authorities {
		if m.host.File(pkiDir+"/"+name) == nil {
			return m.fail(args, "no "+name)
		}
	}
	if !s.quorum() {
		return m.fail(args, "etcd does not answer")
	}
	if s.members[m.ip] != nil {
		return m.fail(args, "etcd: Peer URLs already exists")
	}
	s.addMember(m.ip, false)
	m.host.Write(etcdManifest, "x")
	m.host.Write("/var/lib/etcd/member", "x")
	if s.cut() {
		m.host.Write(kubeletConf, "x")
		return errKilled
	}
	m.host.Write(pkiDir+"/apiserver.crt", string(s.ca))
	m.host.Write(adminConf, "clusters: [{cluster: {server: https://apiserver.cluster.local:6443}}]\nusers: [{user: {}}]\ncontexts: [{context: {}}]\n")
	s.api[m.name] = s.minor
	return nil
}

// etcdTool is etcdctl and etcdutl.
func (m *machine) etcdTool(args []string, out io.Writer) error {
	s := m.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	line := strings.Join(args, " ")
	switch {
	case strings.Contains(line, "snapshot restore"):
		m.host.Write(restoreDir+"/etcd/member", string(m.host.File(restoreDir+"/"+snapshotFile)))
		return nil
	case s.members[m.ip] == nil || !s.healthy(m.ip) || !s.quorum():
		return m.fail(args, "etcdserver: request timed out")
	case strings.Contains(line, "member list"):
		var list []any
		for _, ip := range slices.Sorted(maps.Keys(s.members)) {
			o := s.members[ip]
			list = append(list, map[string]any{
				"ID": o.id, "name": ip, "peerURLs": []string{"https://" + ip + ":2380"}, "clientURLs": []string{"https://" + ip + ":2379"}, "isLearner": o.learner,
			})
		}
		return json.NewEncoder(out).Encode(map[string]any{"members": list})
	case strings.Contains(line, "endpoint status"):
		list := []any{}
		for ip, o := range s.members {
			if s.healthy(ip) {
				list = append(list, map[string]any{"Status": map[string]any{"header": map[string]any{"member_id": o.id}, "leader": 1}})
			}
		}
		return json.NewEncoder(out).Encode(list)
	case strings.Contains(line, "member remove"):
		id := args[len(args)-1]
		for ip, o := range s.members {
			if fmt.Sprintf("%x", o.id) == id {
				delete(s.members, ip)
				return nil
			}
		}
		return m.fail(args, "member not found")
	case strings.Contains(line, "snapshot save"):
		m.host.Write(backupDir+"/"+snapshotFile, strings.Join(slices.Sorted(maps.Keys(s.nodes)), " "))
		return nil
	}
	return m.fail(args, "unknown")
}

func (m *machine) packTree(w io.Writer) error {
	out := tar.NewWriter(w)
	put := func(name, from string) error {
		data := m.host.File(from)
		if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := out.Write(data)
		return err
	}
	err := put(snapshotFile, backupDir+"/"+snapshotFile)
	for _, a := range authorities {
		err = errors.Join(err, put("pki/"+a, pkiDir+"/"+a))
	}
	return errors.Join(err, out.Close())
}

func (m *machine) unpackTree(stdin string) error {
	in := tar.NewReader(strings.NewReader(stdin))
	for {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		m.host.Write(restoreDir+"/"+hdr.Name, string(data))
	}
}
