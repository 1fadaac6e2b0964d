package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime/node"
)

// GetState reads what keg noted on this host; nil where it noted nothing.
func (h *Host) GetState(context.Context) (*node.HostState, error) {
	data, err := os.ReadFile(h.path(node.State))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading state: %w", err)
	}
	return parseState(data)
}

func parseState(data []byte) (*node.HostState, error) {
	var st *node.HostState
	if err := json.Unmarshal(data, &st); err != nil || st == nil {
		e := node.Errorf(node.KindState, "reading state: %s is broken: %v", node.State, err)
		e.Path = node.State
		return nil, e
	}
	return st, nil
}

// SetState notes st, and refuses if the host belongs to a cluster of another UID.
func (h *Host) SetState(ctx context.Context, st node.HostState) error {
	if st.Cluster == "" || st.UID == "" {
		return node.Errorf(node.KindRequest, "a state needs a cluster and its UID")
	}
	release, err := h.alone(ctx)
	if err != nil {
		return err
	}
	defer release()
	old, err := h.GetState(ctx)
	if err != nil {
		return err
	}
	if old != nil && old.UID != "" && old.UID != st.UID {
		e := node.Errorf(node.KindForeign, "this host belongs to the cluster %q (%s), not to %q (%s)", old.Cluster, old.UID, st.Cluster, st.UID)
		e.Cluster, e.Path = old.Cluster, node.State
		return e
	}
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	if err := atomicfile.Write(h.path(node.State), append(data, '\n'), 0o600); err != nil {
		return h.diskFull(err, node.State, int64(len(data)))
	}
	return nil
}
