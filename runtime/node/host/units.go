package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
)

var unitForm = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|mount|path|target|slice)$`)

// Units enables and starts units.
func (h *Host) Units(ctx context.Context, req node.UnitRequest) error {
	for _, u := range req.Units {
		if !unitForm.MatchString(u) || strings.HasPrefix(u, "-") {
			return node.Errorf(node.KindRequest, "%q is no name of a unit, such as kubelet.service", u)
		}
	}
	if h.init() != "systemd" {
		return node.Errorf(node.KindProgram, "this host is not run by systemd")
	}
	rec, done, err := h.recording(ctx)
	if err != nil {
		return err
	}
	defer done()
	if _, err := h.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	for _, u := range req.Units {
		before := entry{Kind: kindUnit, Name: u, Enabled: h.ask(ctx, "is-enabled", u), Active: h.ask(ctx, "is-active", u)}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := rec.record(before); err != nil {
			return err
		}
		if req.NoteOnly {
			continue
		}
		h.step("unit %s", u)
		if before.Enabled != "enabled" {
			if _, err := h.run(ctx, "systemctl", "enable", u); err != nil {
				return err
			}
		}
		if req.EnableOnly {
			continue
		}
		verb := "start"
		if req.Restart {
			verb = "restart"
		}
		args := []string{"systemctl", verb, u}
		if req.NoBlock {
			args = []string{"systemctl", "--no-block", verb, u}
		}
		if _, err := h.run(ctx, args...); err != nil {
			return fmt.Errorf("%w%s", err, h.lastJournal(ctx, u))
		}
	}
	return nil
}

// ask is the one word that systemctl answers with, whatever its exit code; "" if it does not.
func (h *Host) ask(ctx context.Context, question, unit string) string {
	out, err := h.run(ctx, "systemctl", question, unit)
	if err != nil && errors.Is(err, ErrNoProgram) {
		return ""
	}
	return strings.TrimSpace(out)
}

// lastJournal is what a unit that does not start said, for the error.
func (h *Host) lastJournal(ctx context.Context, unit string) string {
	out, err := h.run(ctx, "journalctl", "--no-pager", "-n", "10", "-o", "cat", "-u", unit)
	if err != nil || strings.TrimSpace(out) == "" {
		return ""
	}
	return "\n" + lastLines(strings.TrimSpace(out), 2048)
}

// init names the init system: "systemd", "openrc" or "".
func (h *Host) init() string {
	if _, err := os.Stat(h.path("/run/systemd/system")); err == nil {
		return "systemd"
	}
	for _, p := range []string{"/run/openrc", "/sbin/openrc-run"} {
		if _, err := os.Stat(h.path(p)); err == nil {
			return "openrc"
		}
	}
	return ""
}

// wasOn says whether an answer of is-active means that the unit ran.
func wasOn(active string) bool {
	return active == "active" || active == "activating" || active == "reloading"
}

// stopUnit is the first half of putting a unit back: before its files go.
func (h *Host) stopUnit(ctx context.Context, e entry) error {
	if h.init() != "systemd" {
		return nil
	}
	h.step("stop %s", e.Name)
	var errs []error
	if now := h.ask(ctx, "is-active", e.Name); now != "inactive" && now != "unknown" && now != "" {
		if _, err := h.run(ctx, "systemctl", "stop", e.Name); err != nil {
			errs = append(errs, err)
		}
	}
	if e.Enabled != "enabled" && h.ask(ctx, "is-enabled", e.Name) == "enabled" {
		if _, err := h.run(ctx, "systemctl", "disable", e.Name); err != nil {
			errs = append(errs, err)
		}
	}
	_, _ = h.run(ctx, "systemctl", "reset-failed", e.Name) // an error where there is nothing to reset
	return errors.Join(errs...)
}

// startUnit is the second half: a unit that ran before runs again, with its old files.
func (h *Host) startUnit(ctx context.Context, e entry) error {
	if h.init() != "systemd" {
		return nil
	}
	if e.Enabled == "enabled" && h.ask(ctx, "is-enabled", e.Name) != "enabled" {
		if _, err := h.run(ctx, "systemctl", "enable", e.Name); err != nil {
			return err
		}
	}
	if wasOn(e.Active) && !wasOn(h.ask(ctx, "is-active", e.Name)) {
		if _, err := h.run(ctx, "systemctl", "start", e.Name); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) unitResidue(ctx context.Context, e entry) string {
	if h.init() != "systemd" {
		return ""
	}
	if now := h.ask(ctx, "is-active", e.Name); wasOn(now) != wasOn(e.Active) {
		return fmt.Sprintf("unit %s: is %s and was %s", e.Name, now, e.Active)
	}
	if now := h.ask(ctx, "is-enabled", e.Name); (now == "enabled") != (e.Enabled == "enabled") {
		return fmt.Sprintf("unit %s: is %s and was %s", e.Name, now, e.Enabled)
	}
	return ""
}
