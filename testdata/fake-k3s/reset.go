package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// reset is k3s server --cluster-reset: one server alone, with its own data or those of a snapshot. It ends, and is to be
// started without the flag.
func (c *config) reset(ctx context.Context) error {
	if c.bin == "" {
		return errors.New("stand-in: cluster-reset needs the payload")
	}
	flagFile := c.path("server", "db", "reset-flag")
	snapshot := c.get("cluster-reset-restore-path")
	if c.serverURL != "" {
		return errors.New("cannot perform cluster-reset while server URL is set - remove server from configuration before resetting")
	}
	if snapshot == "" && exists(flagFile) {
		return fmt.Errorf("Managed etcd cluster membership was previously reset, please remove the cluster-reset flag and start k3s normally. "+ //nolint:staticcheck // the words of the real one
			"If you need to perform another cluster reset, you must first manually delete the file at %s", flagFile)
	}
	if c.token.empty() {
		data, err := os.ReadFile(c.path("server", "token"))
		if err != nil {
			return errors.New("the token is necessary: no --token, and no token file of this server")
		}
		if c.token, err = parseToken(strings.TrimSpace(string(data))); err != nil {
			return err
		}
	}
	for _, dir := range []string{"server/db", "server/tls", "server/cred"} {
		if err := os.MkdirAll(c.path(dir), 0o700); err != nil {
			return err
		}
	}
	for _, name := range []string{"k3s-agent-load-balancer", "k3s-api-server-agent-load-balancer"} {
		_ = os.Remove(c.agentFile("etc/" + name + ".json"))
	}
	s := standin.NewSupervisor(c.bin, os.Stderr)
	defer s.Shutdown()
	if snapshot != "" {
		return c.restore(ctx, s, snapshot, flagFile)
	}
	if !c.initialized() {
		return errors.New("etcd: no data of a member to reset")
	}
	name, err := c.memberName()
	if err != nil {
		return err
	}
	if err := c.takeBootstrap(ctx, s, c.etcd(name)); err != nil {
		return err
	}
	return c.resetDone(flagFile)
}

func (c *config) restore(ctx context.Context, s *standin.Supervisor, snapshot, flagFile string) error {
	if !exists(snapshot) {
		return fmt.Errorf("etcd: snapshot path does not exist: %s", snapshot)
	}
	// The data of now are kept, not merged.
	if exists(c.etcdDir()) {
		if err := os.Rename(c.etcdDir(), c.path("server", "db", fmt.Sprintf("etcd-old-%d", time.Now().Unix()))); err != nil {
			return err
		}
	}
	name := c.nodeName + "-" + randomHex(4)
	e := c.etcd(name)
	if err := standin.RestoreEtcd(ctx, s, e, snapshot); err != nil {
		return err
	}
	if err := write(c.etcdDir()+"/name", name, 0o600); err != nil {
		return err
	}
	if err := c.takeBootstrap(ctx, s, e); err != nil {
		return err
	}
	return c.resetDone(flagFile)
}

// takeBootstrap makes a cluster of one out of the data and takes the cluster's files from them.
func (c *config) takeBootstrap(ctx context.Context, s *standin.Supervisor, e standin.Etcd) error {
	e.LocalOnly = true
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	logf("info", "Starting temporary etcd to reconcile with datastore")
	if err := e.Start(ctx, s); err != nil {
		return err
	}
	client := e.EtcdClient(s)
	data, err := loadBootstrap(ctx, client, c.token.password)
	if err != nil {
		return fmt.Errorf("failed to reconcile with local datastore: %w", err)
	}
	if data == nil {
		return errors.New("failed to reconcile with local datastore: no bootstrap data found")
	}
	if err := c.writeBootstrap(data); err != nil {
		return err
	}
	// The member still has the peer URL that it had: of this host, or of the one that saved the snapshot.
	if err := client.SetPeerURL(ctx, standin.PeerURL(c.address())); err != nil {
		return err
	}
	s.Stop("etcd")
	return nil
}

func (c *config) resetDone(flagFile string) error {
	if err := write(flagFile, "", 0o600); err != nil {
		return err
	}
	logf("info", "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes")
	return nil
}
