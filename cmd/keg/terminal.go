package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// errNoTerminal says that a question cannot be asked.
var errNoTerminal = errors.New("there is no terminal to ask on")

// terminal is the file descriptor of the terminal on standard input.
func (a *app) terminal() (int, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, errNoTerminal
	}
	return int(f.Fd()), nil
}

// ask reads a line from the terminal.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	if _, err := a.terminal(); err != nil {
		return "", err
	}
	fmt.Fprint(a.stderr, question)
	line, err := bufio.NewReader(a.input(ctx)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(a.stderr)
		return "", fmt.Errorf("reading answer: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// askSecret reads a line from the terminal without showing it.
func (a *app) askSecret(ctx context.Context, question string) (string, error) {
	fd, err := a.terminal()
	if err != nil {
		return "", err
	}
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("reading answer: %w", err)
	}
	fmt.Fprint(a.stderr, question)
	defer fmt.Fprintln(a.stderr)
	secret, err := unlessDone(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if err != nil {
		_ = term.Restore(fd, before) // the reader that was left behind would have done it
		return "", fmt.Errorf("reading answer: %w", err)
	}
	return string(secret), nil
}

// input is standard input; reading it ends with ctx, also where nothing comes.
func (a *app) input(ctx context.Context) io.Reader { return interruptible(ctx, a.stdin) }

func interruptible(ctx context.Context, r io.Reader) io.Reader {
	if f, ok := r.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			return f // never waits, and its size is known
		}
	}
	return &input{ctx: ctx, r: r, buf: make([]byte, 1<<16)}
}

type input struct {
	ctx  context.Context //nolint:containedctx // an io.Reader has no other place for it
	r    io.Reader
	buf  []byte
	rest []byte
	err  error
}

// Read implements io.Reader.
func (i *input) Read(p []byte) (int, error) {
	if len(i.rest) == 0 && i.err == nil {
		var n int
		n, i.err = unlessDone(i.ctx, func() (int, error) { return i.r.Read(i.buf) })
		i.rest = i.buf[:n]
	}
	n := copy(p, i.rest)
	i.rest = i.rest[n:]
	if len(i.rest) > 0 {
		return n, nil
	}
	return n, i.err
}

// unlessDone calls f, and leaves it behind when ctx ends: a read from a terminal or a pipe cannot be
// called off, and the program ends soon.
func unlessDone[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
