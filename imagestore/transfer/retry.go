package transfer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"
)

// Retry says when to try again after a failure that may pass: a cut connection, 408, 429, 5xx.
type Retry struct {
	// Attempts is how many times in a row something may fail; 0 is 6. A blob that grew by at least
	// one byte begins to count anew.
	Attempts int
	// Wait is the pause after the first failure, doubled after each further one; 0 is 250 ms.
	// The actual pause is between half of it and all of it, so that many clients do not return at once.
	Wait time.Duration
	// MaxWait bounds the pause; 0 is 15 s. What a registry asks for (Retry-After) is honoured up to
	// 20 times that.
	MaxWait time.Duration
}

func (r Retry) withDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 6
	}
	if r.Wait <= 0 {
		r.Wait = 250 * time.Millisecond
	}
	if r.MaxWait <= 0 {
		r.MaxWait = 15 * time.Second
	}
	return r
}

// contact is for the first request to a registry: one that is not there should be reported soon.
func (r Retry) contact() Retry {
	r.Attempts = min(r.Attempts, 3)
	return r
}

// pause waits after the n-th failure in a row, the first being 0.
func (r Retry) pause(ctx context.Context, n int, err error) error {
	d := min(r.Wait<<min(n, 20), r.MaxWait)
	d = d/2 + rand.N(d/2+1)
	var re *RegistryError
	if errors.As(err, &re) && re.retryAfter > 0 {
		d = re.retryAfter
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// again says whether to try once more after the n-th failure in a row.
func (r Retry) again(ctx context.Context, n int, err error) bool {
	var re *RegistryError
	if !errors.As(err, &re) || !re.Temporary() || ctx.Err() != nil || n+1 >= r.Attempts {
		return false
	}
	return re.retryAfter <= 20*r.MaxWait
}

// do calls f until it works, fails for good, or has failed Attempts times.
func (r Retry) do(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || !r.again(ctx, n, err) {
			return err
		}
		if err := r.pause(ctx, n, err); err != nil {
			return err
		}
	}
}

// waitKey carries a *wait in a request's context.
type waitKey struct{}

// wait is what Retry-After said last in the answers to requests that others make for us: ggcr's errors do
// not have it.
type wait struct{ atomic.Int64 }

func withWait(ctx context.Context) (context.Context, *wait) {
	w := &wait{}
	return context.WithValue(ctx, waitKey{}, w), w
}

// note keeps what an answer says.
func (w *wait) note(resp *http.Response) {
	if w != nil && resp != nil {
		w.Store(int64(retryAfter(resp.Header.Get("Retry-After"))))
	}
}

// in makes err know how long to wait.
func (w *wait) in(err error) error {
	var re *RegistryError
	if errors.As(err, &re) {
		re.retryAfter = time.Duration(w.Load())
	}
	return err
}
