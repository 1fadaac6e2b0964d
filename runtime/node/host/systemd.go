package host

import (
	"context"
	"errors"
	"strconv"
	"strings"
)

// systemd is the init system of most hosts.
type systemd struct{ h *Host }

var _ initSystem = systemd{}

func (s systemd) reload(ctx context.Context, _ *recorder, _ []string) error {
	return s.do(ctx, "daemon-reload")
}

func (s systemd) enabled(ctx context.Context, unit string) string {
	return s.ask(ctx, "is-enabled", unit)
}

func (s systemd) active(ctx context.Context, unit string) string {
	return s.ask(ctx, "is-active", unit)
}

func (s systemd) enable(ctx context.Context, unit string) error { return s.do(ctx, "enable", unit) }

func (s systemd) disable(ctx context.Context, unit string) error { return s.do(ctx, "disable", unit) }

func (s systemd) start(ctx context.Context, unit string, how starting) error {
	verb := "start"
	if how.restart {
		verb = "restart"
	}
	if how.noBlock {
		return s.do(ctx, "--no-block", verb, unit)
	}
	return s.do(ctx, verb, unit)
}

func (s systemd) stop(ctx context.Context, unit string) error { return s.do(ctx, "stop", unit) }

func (s systemd) kill(ctx context.Context, unit string) {
	_ = s.do(ctx, "kill", "-s", "KILL", unit)
}

func (s systemd) forget(ctx context.Context, unit string) {
	_ = s.do(ctx, "reset-failed", unit) // an error where there is nothing to forget
}

func (s systemd) restarts(ctx context.Context, unit string) (int, error) {
	n, err := strconv.Atoi(s.property(ctx, "NRestarts", unit))
	if err != nil { // units that are no services have none
		return 0, context.Cause(ctx)
	}
	return n, nil
}

func (s systemd) said(ctx context.Context, unit string, sinceStart bool) (string, error) {
	args := []string{"journalctl", "-q", "--no-pager", "-o", "cat"}
	if sinceStart {
		id := s.property(ctx, "InvocationID", unit)
		if id == "" {
			return "", context.Cause(ctx)
		}
		args = append(args, "_SYSTEMD_INVOCATION_ID="+id)
	} else {
		args = append(args, "-n", strconv.Itoa(lastLooked), "-u", unit)
	}
	out, err := s.h.run(ctx, args...)
	if errors.Is(err, ErrNoProgram) { // some hosts have no journal
		return "", nil
	}
	return out, err
}

// do calls systemctl.
func (s systemd) do(ctx context.Context, args ...string) error {
	_, err := s.h.run(ctx, append([]string{"systemctl"}, args...)...)
	return err
}

// ask is the one word that systemctl answers with, whatever its exit code; "" if it does not.
func (s systemd) ask(ctx context.Context, question, unit string) string {
	out, err := s.h.run(ctx, "systemctl", question, unit)
	if err != nil && errors.Is(err, ErrNoProgram) {
		return ""
	}
	return strings.TrimSpace(out)
}

func (s systemd) property(ctx context.Context, name, unit string) string {
	out, _ := s.h.run(ctx, "systemctl", "show", "-p", name, unit)
	_, value, _ := strings.Cut(out, "=")
	return strings.TrimSpace(value)
}
