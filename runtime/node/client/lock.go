package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/clusterimage/keg/runtime/node"
)

// jsonText is an answer that is read later.
type jsonText []byte

// UnmarshalJSON implements json.Unmarshaler.
func (t *jsonText) UnmarshalJSON(data []byte) error {
	*t = bytes.Clone(data)
	return nil
}

func (t jsonText) into(v any) error {
	if err := json.Unmarshal(t, v); err != nil {
		return fmt.Errorf("reading the answer of keg-node: %w", err)
	}
	return nil
}

// Lock takes the lock of the host and holds it until release is called or the connection breaks;
// release says if it was lost before. ctx counts until the lock is held and not after. Where somebody
// else holds it the error is of node.KindBusy and says who.
func (c *Client) Lock(ctx context.Context, r node.LockRequest) (release func() error, err error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding request: %w", err)
	}
	in, hold := io.Pipe()
	holding, cancel := context.WithCancel(context.WithoutCancel(ctx))
	out := &lockOutput{held: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		err := c.run(holding, node.VerbLock, in, out)
		_ = in.CloseWithError(errEnded)
		ended <- err
	}()
	go func() {
		_, err := hold.Write(append(data, '\n'))
		beat := time.NewTicker(node.LockBeat)
		defer beat.Stop()
		for err == nil {
			select {
			case <-beat.C:
				_, err = hold.Write([]byte{'\n'})
			case <-holding.Done():
				return
			}
		}
	}()
	stop := func() {
		_ = hold.Close()
		cancel()
	}
	select {
	case <-out.held:
	case err := <-ended:
		stop()
		if err == nil {
			err = fmt.Errorf("%slocking: keg-node ended too early", c.prefix())
		}
		return nil, c.failure(node.VerbLock, err, out.bytes())
	case <-ctx.Done():
		stop()
		<-ended //nolint:errcheck // it ended because we ended it
		return nil, context.Cause(ctx)
	}
	return sync.OnceValue(func() error {
		defer cancel()
		select {
		case err := <-ended:
			_ = hold.Close()
			return fmt.Errorf("%sthe lock was lost: %w", c.prefix(), c.failure(node.VerbLock, orEnded(err), out.bytes()))
		default:
		}
		_ = hold.Close()
		select {
		case err := <-ended:
			return err
		case <-time.After(releaseTime):
			return fmt.Errorf("%sreleasing the lock: no answer within %s", c.prefix(), releaseTime)
		}
	}), nil
}

// releaseTime is how long a host may take to say that the lock is free. One that says nothing must not
// keep a person who has typed Ctrl-C.
const releaseTime = 5 * time.Second

func orEnded(err error) error {
	if err == nil {
		return errEnded
	}
	return err
}

// lockOutput waits for the line that says that the lock is held.
type lockOutput struct {
	mu   sync.Mutex
	buf  limited
	once sync.Once
	held chan struct{}
}

func (o *lockOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.buf.Write(p)
	if bytes.HasPrefix(o.buf.buf.Bytes(), []byte(node.Locked+"\n")) {
		o.once.Do(func() { close(o.held) })
	}
	return n, err
}

func (o *lockOutput) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf.buf.Bytes())
}
