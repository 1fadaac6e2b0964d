// Package client is keg's side of keg-node: it sends the program to a host and calls its verbs, which
// package runtime/node describes.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// Client is keg-node on one host. Errors of the host are *node.Error; others come from the Runner.
type Client struct {
	// Runner runs commands on the host as root.
	Runner remote.Runner
	// Log receives what keg-node writes for people; nil discards.
	Log io.Writer
}

// maxAnswer bounds what a host may answer.
const maxAnswer = 64 << 20

// Facts looks at the host and changes nothing.
func (c *Client) Facts(ctx context.Context, r node.FactsRequest) (node.Facts, error) {
	return ask[node.Facts](ctx, c, node.VerbFacts, r)
}

// State is what keg noted on the host; nil where it noted nothing.
func (c *Client) State(ctx context.Context) (*node.HostState, error) {
	return ask[*node.HostState](ctx, c, node.VerbState, nil)
}

// SetState notes s. On a host of another cluster it fails with node.KindForeign.
func (c *Client) SetState(ctx context.Context, s node.HostState) error {
	return tell(ctx, c, node.VerbSetState, s)
}

// Missing says which of the blobs the host does not have, in the order given.
func (c *Client) Missing(ctx context.Context, blobs []digest.Digest) ([]digest.Digest, error) {
	r, err := ask[node.MissingResponse](ctx, c, node.VerbMissing, node.MissingRequest{Blobs: blobs})
	return r.Missing, err
}

// Unpack makes the rootfs of a manifest whose blobs the host has.
func (c *Client) Unpack(ctx context.Context, r node.UnpackRequest) error {
	_, err := ask[node.UnpackResponse](ctx, c, node.VerbUnpack, r)
	return err
}

// Render renders the rootfs's templates.
func (c *Client) Render(ctx context.Context, r node.RenderRequest) error {
	return tell(ctx, c, node.VerbRender, r)
}

// Install copies files of the rootfs to their places.
func (c *Client) Install(ctx context.Context, r node.InstallRequest) (node.InstallResponse, error) {
	return ask[node.InstallResponse](ctx, c, node.VerbInstall, r)
}

// Claim notes what is at places that the cluster's runtime is about to fill.
func (c *Client) Claim(ctx context.Context, r node.ClaimRequest) error {
	return tell(ctx, c, node.VerbClaim, r)
}

// Block puts a block into a text file.
func (c *Client) Block(ctx context.Context, r node.BlockRequest) error {
	_, err := ask[node.InstallResponse](ctx, c, node.VerbBlock, r)
	return err
}

// Sysctl makes kernel settings and loads modules.
func (c *Client) Sysctl(ctx context.Context, r node.SysctlRequest) error {
	_, err := ask[node.InstallResponse](ctx, c, node.VerbSysctl, r)
	return err
}

// Units enables, starts and stops units.
func (c *Client) Units(ctx context.Context, r node.UnitRequest) error {
	return tell(ctx, c, node.VerbUnits, r)
}

// Unit says how a unit is.
func (c *Client) Unit(ctx context.Context, r node.UnitQuery) (node.UnitStatus, error) {
	return ask[node.UnitStatus](ctx, c, node.VerbUnit, r)
}

// Hook runs a script of the rootfs; out, if not nil, receives its output.
func (c *Client) Hook(ctx context.Context, r node.HookRequest, out io.Writer) (node.HookResponse, error) {
	if out == nil {
		out = c.Log
	}
	return ask[node.HookResponse](ctx, &Client{Runner: c.Runner, Log: out}, node.VerbHook, r)
}

// Prune removes blobs that are needed no more.
func (c *Client) Prune(ctx context.Context, r node.PruneRequest) (node.PruneResponse, error) {
	return ask[node.PruneResponse](ctx, c, node.VerbPrune, r)
}

// Undo puts back everything that keg changed on the host.
func (c *Client) Undo(ctx context.Context) (node.UndoResponse, error) {
	return ask[node.UndoResponse](ctx, c, node.VerbUndo, nil)
}

// Residue says what differs from before keg's changes, and changes nothing.
func (c *Client) Residue(ctx context.Context) (node.UndoResponse, error) {
	return ask[node.UndoResponse](ctx, c, node.VerbResidue, nil)
}

// Forget removes keg-node itself, once everything is undone.
func (c *Client) Forget(ctx context.Context) error {
	return tell(ctx, c, node.VerbForget, nil)
}

func tell(ctx context.Context, c *Client, verb node.Verb, req any) error {
	_, err := ask[node.Nothing](ctx, c, verb, req)
	return err
}

// ask calls a verb with a JSON request; nil is none.
func ask[Resp any](ctx context.Context, c *Client, verb node.Verb, req any) (Resp, error) {
	var in io.Reader
	if req != nil {
		data, err := json.Marshal(req)
		if err != nil {
			var none Resp
			return none, fmt.Errorf("encoding request for keg-node %s: %w", verb, err)
		}
		in = bytes.NewReader(data)
	}
	return call[Resp](ctx, c, verb, in)
}

func call[Resp any](ctx context.Context, c *Client, verb node.Verb, in io.Reader) (resp Resp, err error) {
	var out limited
	if err := c.run(ctx, verb, in, &out); err != nil {
		return resp, c.failure(verb, err, out.buf.Bytes())
	}
	if err := json.Unmarshal(out.buf.Bytes(), &resp); err != nil {
		return resp, fmt.Errorf("%sreading the answer of keg-node %s: %w", c.prefix(), verb, err)
	}
	return resp, nil
}

func (c *Client) run(ctx context.Context, verb node.Verb, in io.Reader, out io.Writer) error {
	return c.Runner.Run(ctx, remote.Cmd{Args: []string{node.Binary, string(verb)}, Stdin: in, Stdout: out, Stderr: c.Log})
}

// failure is the error that the host answered with, or else what the Runner said.
func (c *Client) failure(verb node.Verb, err error, answer []byte) error {
	var exit *remote.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	var e node.Error
	if json.Unmarshal(bytes.TrimSpace(answer), &e) != nil || e.Text == "" {
		if exit.Code == noProgram && len(answer) == 0 {
			return &node.Error{Host: exit.Host, Kind: node.KindForgotten, Text: "keg-node is not on this host any more"}
		}
		return fmt.Errorf("keg-node %s: %w", verb, err)
	}
	e.Host = exit.Host
	return &e
}

// noProgram is how env(1) and shells end where the program is not there.
const noProgram = 127

// prefix names the host for errors that do not come from it.
func (c *Client) prefix() string {
	if h, ok := c.Runner.(interface{ Host() string }); ok && h.Host() != "" {
		return h.Host() + ": "
	}
	return ""
}

// limited is a buffer that refuses to grow without end.
type limited struct{ buf bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > maxAnswer {
		return 0, errors.New("the answer is too long")
	}
	return l.buf.Write(p)
}

// architectures are GOARCH by what `uname -m` says.
var architectures = map[string]string{
	"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64",
}

// Binary is a keg-node for one architecture.
type Binary struct {
	Digest digest.Digest // SHA-256
	Open   func() (io.ReadCloser, error)
}

// Ensure sends keg-node if the host has none or another one. binary gives that for a GOARCH.
func (c *Client) Ensure(ctx context.Context, binary func(goarch string) (Binary, error)) error {
	machine, err := remote.Output(ctx, c.Runner, "uname", "-m")
	if err != nil {
		return fmt.Errorf("sending keg-node: %w", err)
	}
	arch, ok := architectures[strings.TrimSpace(string(machine))]
	if !ok {
		return fmt.Errorf("%ssending keg-node: there is none for machines of type %q", c.prefix(), strings.TrimSpace(string(machine)))
	}
	b, err := binary(arch)
	if err != nil {
		return fmt.Errorf("%ssending keg-node: %w", c.prefix(), err)
	}
	content, err := b.Open()
	if err != nil {
		return fmt.Errorf("sending keg-node: %w", err)
	}
	defer content.Close()
	changed, err := remote.PutFile(ctx, c.Runner, node.Binary, 0o700, content, b.Digest)
	if err != nil {
		return fmt.Errorf("sending keg-node: %w", err)
	}
	if _, err := remote.Output(ctx, c.Runner, node.Binary, "--version"); err != nil {
		if changed { // a program that cannot start cannot remove itself
			_, _ = remote.Output(ctx, c.Runner, "sh", "-c", `rm -f "$1"; rmdir "${1%/*}"`, "sh", node.Binary)
		}
		return fmt.Errorf("starting keg-node, which lies in %s (is that mounted noexec?): %w", node.Dir, err)
	}
	return nil
}
