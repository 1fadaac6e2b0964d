package host

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/runtime/node"
)

// reserve is how much of a file system receive leaves free: a root file system without a byte left is
// a host that one cannot log in to.
const reserve = 64 << 20

// Missing says which blobs are not in the store.
func (h *Host) Missing(_ context.Context, req node.MissingRequest) (node.MissingResponse, error) {
	resp := node.MissingResponse{Missing: []digest.Digest{}}
	store, err := h.store()
	if err != nil {
		return resp, err
	}
	for _, d := range req.Blobs {
		if err := validDigest(d); err != nil {
			return resp, err
		}
		if !store.Has(d) {
			resp.Missing = append(resp.Missing, d)
		}
	}
	return resp, nil
}

func validDigest(d digest.Digest) error {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return node.Errorf(node.KindRequest, "%q is no SHA-256 digest", d)
	}
	return nil
}

// Receive takes the blobs of a tar stream into the store.
func (h *Host) Receive(ctx context.Context, stream io.Reader) (node.ReceiveResponse, error) {
	var resp node.ReceiveResponse
	store, err := h.store()
	if err != nil {
		return resp, err
	}
	in := tar.NewReader(stream)
	for {
		if err := context.Cause(ctx); err != nil {
			return resp, err
		}
		hdr, err := nextEntry(in)
		if errors.Is(err, io.EOF) {
			return resp, nil
		}
		if err != nil {
			return resp, err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			if total, err := strconv.ParseInt(hdr.PAXRecords[node.ReceiveTotal], 10, 64); err == nil {
				if err := h.room(total); err != nil {
					return resp, err
				}
			}
			continue
		}
		n, err := h.receiveOne(ctx, store, hdr, in)
		if err != nil {
			return resp, err
		}
		if n >= 0 {
			resp.Blobs++
			resp.Bytes += n
		}
	}
}

// room fails where need more bytes would fill the store's file system.
func (h *Host) room(need int64) error {
	free, err := h.free(node.StoreDir)
	if err != nil || free-reserve >= need {
		return err
	}
	return noRoom(node.StoreDir, need, max(0, free-reserve))
}

// receiveOne returns the size of the blob, or -1 if the store had it.
func (h *Host) receiveOne(ctx context.Context, store *imagestore.Store, hdr *tar.Header, content io.Reader) (int64, error) {
	d := digest.Digest(hdr.Name)
	if validDigest(d) != nil {
		return 0, node.Errorf(node.KindArchive, "entry %q is not named by a SHA-256 digest", hdr.Name)
	}
	if store.Has(d) {
		return -1, nil
	}
	if err := h.room(hdr.Size); err != nil {
		return 0, fmt.Errorf("receiving %s: %w", d, err)
	}
	w, err := store.Writer(ctx)
	if err != nil {
		return 0, fmt.Errorf("receiving %s: %w", d, h.diskFull(err, node.StoreDir, hdr.Size))
	}
	defer w.Close()
	if _, err := io.Copy(w, content); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, fmt.Errorf("receiving %s: %w", d, streamError(err))
		}
		return 0, fmt.Errorf("receiving %s: %w", d, h.diskFull(err, node.StoreDir, hdr.Size))
	}
	if _, err := w.Commit(d, hdr.Size); err != nil {
		if errors.Is(err, imagestore.ErrDigest) {
			return 0, node.Errorf(node.KindDigest, "receiving %s: %v", d, err)
		}
		return 0, fmt.Errorf("receiving %s: %w", d, h.diskFull(err, node.StoreDir, hdr.Size))
	}
	return hdr.Size, nil
}

// Prune removes blobs that none of the roots needs.
func (h *Host) Prune(ctx context.Context, req node.PruneRequest) (node.PruneResponse, error) {
	if len(req.Roots) == 0 {
		return node.PruneResponse{}, node.Errorf(node.KindRequest, "nothing is to be kept: that is what forget is for")
	}
	store, err := h.store()
	if err != nil {
		return node.PruneResponse{}, err
	}
	var roots []ocispec.Descriptor
	for _, d := range req.Roots {
		if err := validDigest(d.Digest); err != nil {
			return node.PruneResponse{}, err
		}
		if st, err := os.Stat(store.BlobPath(d.Digest)); err == nil { // what is not here needs nothing
			d.Size = st.Size()
			roots = append(roots, d)
		}
	}
	r, err := store.Prune(ctx, imagestore.PruneOptions{Roots: roots})
	return node.PruneResponse{Blobs: r.Blobs, Bytes: r.Bytes}, err
}
