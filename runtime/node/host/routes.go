package host

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// routes are the destinations of the main routing table's routes by way of another host that lie in a range, as
// ip(8) prints them: those that go with a network device are that device's.
func (h *Host) routes(ctx context.Context, within string) ([]string, error) {
	area, err := netip.ParsePrefix(within)
	if err != nil {
		return nil, err
	}
	out, err := h.run(ctx, "ip", family(area), "route", "show")
	if errors.Is(err, ErrNoProgram) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) > 0 && slices.Contains(words, "via") && inside(words[0], area) {
			found = append(found, words[0])
		}
	}
	return found, nil
}

func family(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "-6"
	}
	return "-4"
}

// inside says whether a destination, "ADDRESS" or "ADDRESS/BITS", lies in a range.
func inside(destination string, area netip.Prefix) bool {
	p, err := netip.ParsePrefix(destination)
	if err != nil {
		addr, err := netip.ParseAddr(destination)
		if err != nil {
			return false
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	return p.Bits() >= area.Bits() && area.Contains(p.Addr())
}

// cameRoutes are the routes that came after the claim.
func (h *Host) cameRoutes(ctx context.Context, e entry) ([]string, error) {
	now, err := h.routes(ctx, e.Name)
	return slices.DeleteFunc(now, func(r string) bool { return slices.Contains(e.Names, r) }), err
}

func (h *Host) undoRoutes(ctx context.Context, e entry) (restored bool, err error) {
	came, err := h.cameRoutes(ctx, e)
	if err != nil {
		return false, err
	}
	area, err := netip.ParsePrefix(e.Name)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, r := range came {
		h.step("ip route del %s", r)
		_, err := h.run(ctx, "ip", family(area), "route", "del", r)
		errs, restored = append(errs, err), true
	}
	return restored, errors.Join(errs...)
}
