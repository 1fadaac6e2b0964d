package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/clusterimage/keg/runtime/node"
)

// ErrUnknownVerb says that there is no such verb.
var ErrUnknownVerb = errors.New("unknown verb")

// maxRequest bounds JSON requests; secrets and files travel as tar streams.
const maxRequest = 16 << 20

// Verbs are all the verbs of this keg-node, in order.
func Verbs() []node.Verb {
	return []node.Verb{
		node.VerbFacts, node.VerbLock, node.VerbState, node.VerbSetState, node.VerbMissing, node.VerbReceive, node.VerbUnpack,
		node.VerbRender, node.VerbInstall, node.VerbPut, node.VerbClaim, node.VerbBlock, node.VerbSysctl, node.VerbUnits,
		node.VerbUnit, node.VerbHook, node.VerbRegistry, node.VerbBalance, node.VerbVIP, node.VerbVIPDrop, node.VerbPrune, node.VerbUndo, node.VerbResidue, node.VerbForget,
	}
}

// Do carries out one verb: reads its request from in and writes its answer to out. An error has not
// been written: see Fail.
func (h *Host) Do(ctx context.Context, verb node.Verb, in io.Reader, out io.Writer) error {
	switch verb {
	case node.VerbFacts:
		return answer(ctx, in, out, h.Facts)
	case node.VerbLock:
		return h.Lock(ctx, in, out)
	case node.VerbState:
		return reply(out)(h.GetState(ctx))
	case node.VerbSetState:
		return order(ctx, in, out, h.SetState)
	case node.VerbMissing:
		return answer(ctx, in, out, h.Missing)
	case node.VerbReceive:
		return reply(out)(h.Receive(ctx, in))
	case node.VerbUnpack:
		return answer(ctx, in, out, h.Unpack)
	case node.VerbRender:
		return order(ctx, in, out, h.Render)
	case node.VerbInstall:
		return answer(ctx, in, out, h.Install)
	case node.VerbPut:
		return reply(out)(h.Put(ctx, in))
	case node.VerbClaim:
		return order(ctx, in, out, h.Claim)
	case node.VerbBlock:
		return answer(ctx, in, out, h.Block)
	case node.VerbSysctl:
		return answer(ctx, in, out, h.Sysctl)
	case node.VerbUnits:
		return order(ctx, in, out, h.Units)
	case node.VerbUnit:
		return answer(ctx, in, out, h.Unit)
	case node.VerbHook:
		return answer(ctx, in, out, h.Hook)
	case node.VerbRegistry:
		return h.Registry(ctx)
	case node.VerbBalance:
		return h.Balance(ctx)
	case node.VerbVIP:
		return h.VIP(ctx)
	case node.VerbVIPDrop:
		return reply(out)(node.Nothing{}, h.DropVIP(ctx))
	case node.VerbPrune:
		return answer(ctx, in, out, h.Prune)
	case node.VerbUndo:
		return reply(out)(h.Undo(ctx))
	case node.VerbResidue:
		return reply(out)(h.Residue(ctx))
	case node.VerbForget:
		return reply(out)(node.Nothing{}, h.Forget(ctx))
	}
	return fmt.Errorf("%w: %s; there are %v", ErrUnknownVerb, verb, Verbs())
}

// Fail writes err to out as the client reads it and returns the exit code.
func Fail(out io.Writer, err error) (code int) {
	if errors.Is(err, ErrUnknownVerb) {
		return 2
	}
	wire := node.Error{Text: err.Error()}
	var typed *node.Error
	if errors.As(err, &typed) {
		wire = *typed
		wire.Text = err.Error() // with what was wrapped around it
	}
	_ = json.NewEncoder(out).Encode(wire)
	if wire.Kind == node.KindBusy {
		return node.CodeBusy
	}
	return 1
}

// answer reads a request, calls do and writes what it answers.
func answer[Req, Resp any](ctx context.Context, in io.Reader, out io.Writer, do func(context.Context, Req) (Resp, error)) error {
	var req Req
	if err := decode(in, &req); err != nil {
		return err
	}
	return reply(out)(do(ctx, req))
}

// order is answer for verbs that answer Nothing.
func order[Req any](ctx context.Context, in io.Reader, out io.Writer, do func(context.Context, Req) error) error {
	return answer(ctx, in, out, func(ctx context.Context, req Req) (node.Nothing, error) {
		return node.Nothing{}, do(ctx, req)
	})
}

func reply(out io.Writer) func(v any, err error) error {
	return func(v any, err error) error {
		if err != nil {
			return err
		}
		if err := json.NewEncoder(out).Encode(v); err != nil {
			return fmt.Errorf("answering: %w", err)
		}
		return nil
	}
}

// decode reads exactly one JSON document of known fields.
func decode(in io.Reader, v any) error {
	d := json.NewDecoder(io.LimitReader(in, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return node.Errorf(node.KindRequest, "reading request: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return node.Errorf(node.KindRequest, "reading request: something stands after it")
	}
	return nil
}

// Known says whether there is such a verb.
func Known(verb node.Verb) bool { return slices.Contains(Verbs(), verb) }
