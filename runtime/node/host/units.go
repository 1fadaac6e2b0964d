package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
)

var unitForm = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|mount|path|target|slice)$`)

// initSystem runs the services of a host, by the names of systemd's units.
type initSystem interface {
	// reload has the init system read what changed in the files of units.
	reload(ctx context.Context, rec *recorder, units []string) error
	// enabled is "enabled" for a unit that is started at boot.
	enabled(ctx context.Context, unit string) string
	// active is a word of systemd (node.UnitStatus); "" where nobody answers.
	active(ctx context.Context, unit string) string
	enable(ctx context.Context, unit string) error
	disable(ctx context.Context, unit string) error
	start(ctx context.Context, unit string, how starting) error
	stop(ctx context.Context, unit string) error
	// kill ends a unit that cannot be stopped.
	kill(ctx context.Context, unit string)
	// forget takes away what the init system keeps of a unit that is stopped, such as that it failed.
	forget(ctx context.Context, unit string)
	// restarts is how often it was started again by itself.
	restarts(ctx context.Context, unit string) (int, error)
	// said is what it wrote: since its last start, or the last lines of whenever.
	said(ctx context.Context, unit string, sinceStart bool) (string, error)
}

// starting is how to start a unit.
type starting struct {
	restart bool // also if it runs
	noBlock bool // without waiting until it is ready
}

// lastLooked is how many lines of what a unit said are looked at, where it is not asked since when.
const lastLooked = 300

// noInit says that a host is run by something that keg cannot ask.
var noInit = node.Errorf(node.KindProgram, "this host is run neither by systemd nor by OpenRC")

// services is the host's init system; nil where there is none that is known.
func (h *Host) services() initSystem {
	switch h.init() {
	case "systemd":
		return systemd{h}
	}
	return nil
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

func checkUnits(units ...string) error {
	for _, u := range units {
		if !unitForm.MatchString(u) || strings.HasPrefix(u, "-") {
			return node.Errorf(node.KindRequest, "%q is no name of a unit, such as kubelet.service", u)
		}
	}
	return nil
}

// Units enables and starts units, or stops them.
func (h *Host) Units(ctx context.Context, req node.UnitRequest) error {
	if err := checkUnits(req.Units...); err != nil {
		return err
	}
	if len(req.Between) > 0 && (len(req.Units) != 1 || !req.Restart) {
		return node.Errorf(node.KindRequest, "a command runs between stop and start of one unit, with a restart")
	}
	s := h.services()
	if s == nil {
		return noInit
	}
	if req.Stop {
		return h.stopUnits(ctx, s, req)
	}
	rec, done, err := h.recording(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := s.reload(ctx, rec, req.Units); err != nil {
		return err
	}
	for _, u := range req.Units {
		before := entry{Kind: kindUnit, Name: u, Enabled: s.enabled(ctx, u), Active: s.active(ctx, u)}
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
			if err := s.enable(ctx, u); err != nil {
				return err
			}
		}
		if req.EnableOnly {
			continue
		}
		if len(req.Between) > 0 {
			return h.between(ctx, s, u, req)
		}
		if err := h.start(ctx, s, u, req); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) start(ctx context.Context, s initSystem, unit string, req node.UnitRequest) error {
	if err := s.start(ctx, unit, starting{restart: req.Restart, noBlock: req.NoBlock}); err != nil {
		return fmt.Errorf("%w%s", err, h.lastWords(ctx, s, unit))
	}
	return nil
}

// between stops a unit for a command.
func (h *Host) between(ctx context.Context, s initSystem, unit string, req node.UnitRequest) error {
	if err := s.stop(ctx, unit); err != nil {
		return err
	}
	out, err := h.run(ctx, req.Between...)
	fmt.Fprint(h.log(), out)
	return errors.Join(err, h.start(context.WithoutCancel(ctx), s, unit, req))
}

// stopUnits stops units in their order.
func (h *Host) stopUnits(ctx context.Context, s initSystem, req node.UnitRequest) error {
	release, err := h.alone(ctx)
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for _, u := range req.Units {
		before := entry{Kind: kindUnit, Name: u}
		if !req.Disable {
			before.Enabled = "enabled"
		}
		err := h.stopUnit(ctx, before)
		if err != nil && req.Kill {
			s.kill(ctx, u)
			err = context.Cause(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Unit says how a unit is, and changes nothing.
func (h *Host) Unit(ctx context.Context, req node.UnitQuery) (node.UnitStatus, error) {
	status := node.UnitStatus{Active: "unknown"}
	if err := checkUnits(req.Unit); err != nil {
		return status, err
	}
	match, err := regexp.Compile(req.Match)
	if err != nil {
		return status, node.Errorf(node.KindRequest, "%q is no regular expression: %v", req.Match, err)
	}
	s := h.services()
	if s == nil {
		return status, noInit
	}
	if now := s.active(ctx, req.Unit); now != "" {
		status.Active = now
	}
	if status.Restarts, err = s.restarts(ctx, req.Unit); err != nil {
		return status, err
	}
	if req.Lines <= 0 {
		return status, context.Cause(ctx)
	}
	text, err := s.said(ctx, req.Unit, req.SinceStart)
	if err != nil {
		return status, err
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); match.MatchString(line) {
			status.Said = append(status.Said, line)
		}
	}
	status.Said = slices.Clone(status.Said[max(0, len(status.Said)-req.Lines):])
	return status, context.Cause(ctx)
}

// lastWords is what a unit that does not start said, for the error.
func (h *Host) lastWords(ctx context.Context, s initSystem, unit string) string {
	out, err := s.said(ctx, unit, false)
	if err != nil || strings.TrimSpace(out) == "" {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return "\n" + lastLines(strings.Join(lines[max(0, len(lines)-10):], "\n"), 2048)
}

// wasOn says whether a unit of that state runs.
func wasOn(active string) bool {
	return active == "active" || active == "activating" || active == "reloading"
}

// stopUnit is the first half of putting a unit back: before its files go.
func (h *Host) stopUnit(ctx context.Context, e entry) error {
	s := h.services()
	if s == nil {
		return nil
	}
	h.step("stop %s", e.Name)
	var errs []error
	if now := s.active(ctx, e.Name); now != "inactive" && now != "unknown" && now != "" {
		errs = append(errs, s.stop(ctx, e.Name))
	}
	if e.Enabled != "enabled" && s.enabled(ctx, e.Name) == "enabled" {
		errs = append(errs, s.disable(ctx, e.Name))
	}
	s.forget(ctx, e.Name)
	return errors.Join(errs...)
}

// startUnit is the second half: a unit that ran before runs again, with its old files.
func (h *Host) startUnit(ctx context.Context, e entry) error {
	s := h.services()
	if s == nil {
		return nil
	}
	if err := s.reload(ctx, nil, nil); err != nil {
		return err
	}
	if e.Enabled == "enabled" && s.enabled(ctx, e.Name) != "enabled" {
		if err := s.enable(ctx, e.Name); err != nil {
			return err
		}
	}
	if wasOn(e.Active) && !wasOn(s.active(ctx, e.Name)) {
		return s.start(ctx, e.Name, starting{})
	}
	return nil
}

func (h *Host) unitResidue(ctx context.Context, e entry) string {
	s := h.services()
	if s == nil {
		return ""
	}
	if now := s.active(ctx, e.Name); wasOn(now) != wasOn(e.Active) {
		return fmt.Sprintf("unit %s: is %s and was %s", e.Name, now, e.Active)
	}
	if now := s.enabled(ctx, e.Name); (now == "enabled") != (e.Enabled == "enabled") {
		return fmt.Sprintf("unit %s: is %s and was %s", e.Name, now, e.Enabled)
	}
	return ""
}
