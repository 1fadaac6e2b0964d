package remote

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// hostLimit is how many hosts one list may name; more is a slip of the pen.
const hostLimit = 1024

// Host is one host of a list.
type Host struct {
	// Name is an IP address in its canonical form or a DNS name in lower case.
	Name string
	// Port is 0 if the list does not say.
	Port int
}

// String is the host as a list would name it.
func (h Host) String() string {
	if h.Port != 0 {
		return net.JoinHostPort(h.Name, strconv.Itoa(h.Port))
	}
	if strings.Contains(h.Name, ":") {
		return "[" + h.Name + "]"
	}
	return h.Name
}

// ParseHosts reads a list of hosts, separated by commas: addresses, names, ranges such as
// 192.168.0.2-192.168.0.5 and networks such as 192.168.0.0/29 (of IPv4 networks without their first and
// last address). Each piece may end in a :port for all its hosts; IPv6 addresses stand in brackets,
// [fd00::1]-[fd00::4] and [fd00::]/126. Hosts come in the order written. A blank list has none.
func ParseHosts(s string) ([]Host, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out []Host
	from := map[Host]string{}
	for piece := range strings.SplitSeq(s, ",") {
		piece = strings.TrimSpace(piece)
		if piece == "" {
			return nil, fmt.Errorf("hosts %q: a piece is empty: take out the extra comma", s)
		}
		hosts, err := parsePiece(piece, hostLimit-len(out))
		if err != nil {
			return nil, fmt.Errorf("hosts: %q: %w", piece, err)
		}
		for _, h := range hosts {
			if first, twice := from[h]; twice {
				if first == piece {
					return nil, fmt.Errorf("hosts: %s is named twice, as %q: name each host once", h, piece)
				}
				return nil, fmt.Errorf("hosts: %s is named twice, by %q and by %q: name each host once", h, first, piece)
			}
			from[h] = piece
		}
		out = append(out, hosts...)
	}
	return out, nil
}

// parsePiece reads what stands between two commas.
func parsePiece(piece string, room int) ([]Host, error) {
	text, port, err := cutPort(piece)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	switch {
	case strings.Contains(text, "/"):
		addrs, err = parseNetwork(text, room)
	case !isName(text) && strings.Contains(text, "-"):
		addrs, err = parseRange(text, room)
	case isName(text):
		if room < 1 {
			return nil, tooMany()
		}
		return []Host{{Name: strings.ToLower(strings.TrimSuffix(text, ".")), Port: port}}, nil
	default:
		var a netip.Addr
		a, err = parseAddr(text)
		addrs = []netip.Addr{a}
		if err == nil && room < 1 {
			err = tooMany()
		}
	}
	if err != nil {
		return nil, err
	}
	hosts := make([]Host, len(addrs))
	for i, a := range addrs {
		hosts[i] = Host{Name: a.String(), Port: port}
	}
	return hosts, nil
}

// cutPort takes the port off the end. Colons inside brackets are none of its business.
func cutPort(piece string) (text string, port int, err error) {
	tail := piece[strings.LastIndexByte(piece, ']')+1:]
	at := strings.LastIndexByte(tail, ':')
	if at < 0 {
		return piece, 0, nil
	}
	if len(tail) == len(piece) && strings.Count(tail, ":") > 1 {
		return "", 0, fmt.Errorf("write IPv6 addresses in brackets, such as [fd00::1] or [fd00::1]:22")
	}
	number := tail[at+1:]
	port, err = strconv.Atoi(number)
	if err != nil || port < 1 || port > 65535 || number[0] == '+' {
		return "", 0, fmt.Errorf("%q is not a port: use 1 to 65535", number)
	}
	return strings.TrimSuffix(piece, tail[at:]), port, nil
}

// parseNetwork lists the addresses of text, such as 192.168.0.0/29.
func parseNetwork(text string, room int) ([]netip.Addr, error) {
	base, bits, _ := strings.Cut(text, "/")
	a, err := parseAddr(base)
	if err != nil {
		return nil, err
	}
	length, err := strconv.Atoi(bits)
	if err != nil || length < 0 || length > a.BitLen() || bits[0] == '+' {
		return nil, fmt.Errorf("%q is not a prefix length: use 0 to %d", bits, a.BitLen())
	}
	network := netip.PrefixFrom(a, length).Masked()
	if network.Addr() != a {
		return nil, fmt.Errorf("%s is a host in the network %s: write %s for one host, %s for all", a, network, a, network)
	}
	if a.BitLen()-length > 11 { // beyond any limit, and 1<<n must not overflow
		return nil, tooMany()
	}
	count := 1 << (a.BitLen() - length)
	if a.Is4() && count > 2 { // without network and broadcast address
		return list(a.Next(), count-2, room)
	}
	return list(a, count, room)
}

// parseRange lists the addresses of text, such as 192.168.0.2-192.168.0.5.
func parseRange(text string, room int) ([]netip.Addr, error) {
	left, right, _ := strings.Cut(text, "-")
	first, err := parseAddr(strings.TrimSpace(left))
	if err != nil {
		return nil, err
	}
	last, err := parseAddr(strings.TrimSpace(right))
	if err != nil {
		return nil, fmt.Errorf("%w (a range is written with two whole addresses, FIRST-LAST)", err)
	}
	if first.BitLen() != last.BitLen() {
		return nil, fmt.Errorf("a range cannot go from IPv4 to IPv6: write two pieces")
	}
	if last.Less(first) {
		return nil, fmt.Errorf("the range runs backwards: write %s-%s", last, first)
	}
	var out []netip.Addr
	for a := first; ; a = a.Next() {
		if len(out) >= room {
			return nil, tooMany()
		}
		out = append(out, a)
		if a == last {
			return out, nil
		}
	}
}

func list(first netip.Addr, count, room int) ([]netip.Addr, error) {
	if count > room {
		return nil, tooMany()
	}
	out := make([]netip.Addr, 0, count)
	for a := first; len(out) < count; a = a.Next() {
		out = append(out, a)
	}
	return out, nil
}

func parseAddr(text string) (netip.Addr, error) {
	inner, bracketed := text, false
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		inner, bracketed = text[1:len(text)-1], true
	}
	a, err := netip.ParseAddr(inner)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is neither an IP address nor a host name", text)
	case a.Zone() != "":
		return a, fmt.Errorf("%q has a zone: use an address that all hosts can reach", text)
	case a.Is6() && !bracketed:
		return a, fmt.Errorf("write IPv6 addresses in brackets: [%s]", a)
	case a.Is4() && bracketed:
		return a, fmt.Errorf("brackets are for IPv6: write %s", a)
	}
	return a.Unmap(), nil
}

// isName tells DNS names from all that is meant to be an address: those have nothing but digits in their
// last part, or brackets, or a slash.
func isName(text string) bool {
	text = strings.TrimSuffix(text, ".")
	if text == "" || len(text) > 253 {
		return false
	}
	labels := strings.Split(text, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789-") != ""
}

func tooMany() error {
	return fmt.Errorf("that makes more than %d hosts: split the list", hostLimit)
}
