package client

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/clusterimage/keg/runtime/node"
)

// Receive sends blobs to the host, which verifies them. If the stream breaks, what arrived whole is
// kept: ask Missing again and send the rest.
func (c *Client) Receive(ctx context.Context, blobs []node.Blob) error {
	if len(blobs) == 0 {
		return nil
	}
	return c.stream(ctx, node.VerbReceive, &node.ReceiveResponse{}, func(ctx context.Context, out *tar.Writer) error {
		var total int64
		for _, b := range blobs {
			total += b.Size
		}
		hdr := &tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "total", PAXRecords: map[string]string{node.ReceiveTotal: strconv.FormatInt(total, 10)}}
		if err := out.WriteHeader(hdr); err != nil {
			return err
		}
		for _, b := range blobs {
			if err := send(ctx, out, b); err != nil {
				return err
			}
		}
		return nil
	})
}

func send(ctx context.Context, out *tar.Writer, b node.Blob) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	in, err := b.Open(ctx)
	if err != nil {
		return fmt.Errorf("sending %s: %w", b.Digest, err)
	}
	defer in.Close()
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: b.Digest.String(), Size: b.Size, Mode: 0o600, Format: tar.FormatPAX}
	if err := out.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.CopyBuffer(out, struct{ io.Reader }{in}, make([]byte, 256<<10))
	switch {
	case errors.Is(err, tar.ErrWriteTooLong):
		return fmt.Errorf("sending %s: it is longer than %d bytes", b.Digest, b.Size)
	case err != nil:
		return fmt.Errorf("sending %s: %w", b.Digest, err)
	case n != b.Size:
		return fmt.Errorf("sending %s: it has %d bytes and should have %d", b.Digest, n, b.Size)
	}
	return nil
}

// Put writes small files, perhaps secret ones, each at once.
func (c *Client) Put(ctx context.Context, files []node.File) (node.InstallResponse, error) {
	var resp node.InstallResponse
	if len(files) == 0 {
		return resp, nil
	}
	err := c.stream(ctx, node.VerbPut, &resp, func(ctx context.Context, out *tar.Writer) error {
		for _, f := range files {
			hdr := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data)), Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
			if err := out.WriteHeader(hdr); err != nil {
				return err
			}
			if _, err := out.Write(f.Data); err != nil {
				return err
			}
		}
		return nil
	})
	return resp, err
}

// errEnded is what the sender hears if the host ends before the stream does.
var errEnded = errors.New("the host has ended the stream")

// stream calls a verb whose stdin is the tar archive that fill writes, and reads its answer into resp.
func (c *Client) stream(ctx context.Context, verb node.Verb, resp any, fill func(context.Context, *tar.Writer) error) error {
	r, w := io.Pipe()
	asked := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filled := make(chan error, 1)
	go func() {
		out := tar.NewWriter(w)
		err := fill(ctx, out)
		if err == nil {
			err = out.Close()
		}
		_ = w.CloseWithError(err) // the host sees an early end
		filled <- err
	}()
	answer, err := call[jsonText](ctx, c, verb, r)
	_ = r.CloseWithError(errEnded)
	cancel() // a source that is being opened for nobody
	sent := <-filled
	if asked.Err() != nil {
		return context.Cause(asked)
	}
	if sent != nil && !errors.Is(sent, errEnded) && !errors.Is(sent, context.Canceled) {
		return fmt.Errorf("%s%w", c.prefix(), sent) // why the host saw an early end
	}
	if err != nil {
		return err
	}
	return answer.into(resp)
}
