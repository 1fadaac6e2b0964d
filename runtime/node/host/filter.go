package host

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// filter is one way to the packet filter: the program that lists it and the one that takes changes on
// its stdin.
type filter struct {
	list, change []string
	// parse finds the names of what a container runtime may have made, in a listing.
	parse func(listing string) []string
	// removal is the text for change that removes names from what was listed.
	removal func(listing string, names []string) string
}

var filters = []filter{
	{list: []string{"iptables-save"}, change: []string{"iptables-restore", "--noflush"}, parse: chains, removal: chainRemoval},
	{list: []string{"ip6tables-save"}, change: []string{"ip6tables-restore", "--noflush"}, parse: chains, removal: chainRemoval},
	{list: []string{"nft", "list", "tables"}, change: []string{"nft", "-f", "-"}, parse: tables, removal: tableRemoval},
}

// filterNames are the names that the filter has now; none where the host has no such program.
func (h *Host) filterNames(ctx context.Context, f filter) ([]string, error) {
	text, err := h.run(ctx, f.list...)
	if errors.Is(err, ErrNoProgram) {
		return nil, nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, nil // a kernel without that filter: there is nothing to note
	}
	return f.parse(text), nil
}

// ours says whether a chain is named as those of kubelet, kube-proxy, flannel and CNI's plugins are.
func ours(chain string) bool {
	return strings.HasPrefix(chain, "KUBE-") || strings.HasPrefix(chain, "CNI-") || strings.HasPrefix(chain, "FLANNEL-")
}

// chains are "TABLE CHAIN" of an iptables-save listing.
func chains(listing string) []string {
	var names []string
	table := ""
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		if t, ok := strings.CutPrefix(line, "*"); ok {
			table = t
		}
		if c, ok := strings.CutPrefix(line, ":"); ok {
			chain, _, _ := strings.Cut(c, " ")
			if ours(chain) {
				names = append(names, table+" "+chain)
			}
		}
	}
	return names
}

// chainRemoval is for iptables-restore --noflush: rules that lead into a chain are deleted, chains
// emptied and deleted, everything else is left alone, a table at a time.
func chainRemoval(listing string, names []string) string {
	var out strings.Builder
	table := ""
	var jumps, gone []string
	flush := func() {
		if len(gone) > 0 {
			out.WriteString("*" + table + "\n")
			for _, c := range gone {
				out.WriteString(":" + c + " - [0:0]\n")
			}
			for _, j := range jumps {
				out.WriteString(j + "\n")
			}
			for _, c := range gone {
				out.WriteString("-X " + c + "\n")
			}
			out.WriteString("COMMIT\n")
		}
		jumps, gone = nil, nil
	}
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			chain, _, _ := strings.Cut(line[1:], " ")
			if slices.Contains(names, table+" "+chain) {
				gone = append(gone, chain)
			}
		case strings.HasPrefix(line, "-A "):
			chain, rule, _ := strings.Cut(line[3:], " ")
			if !slices.Contains(gone, chain) && leadsTo(rule, gone) {
				jumps = append(jumps, "-D "+chain+" "+rule)
			}
		case line == "COMMIT":
			flush()
		}
	}
	return out.String()
}

// leadsTo says whether a rule jumps or goes to one of the chains.
func leadsTo(rule string, chains []string) bool {
	words := strings.Fields(rule)
	for i, w := range words[:max(0, len(words)-1)] {
		if (w == "-j" || w == "-g") && slices.Contains(chains, words[i+1]) {
			return true
		}
	}
	return false
}

// nftTables are those that kube-proxy and CNI's plugins make.
var nftTables = []string{"ip kube-proxy", "ip6 kube-proxy", "inet cni_hostport", "inet cni_plugins_masquerade"}

// tables are "FAMILY NAME" of nft's listing.
func tables(listing string) []string {
	var names []string
	for line := range strings.Lines(listing) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "table "); ok && slices.Contains(nftTables, name) {
			names = append(names, name)
		}
	}
	return names
}

func tableRemoval(_ string, names []string) string {
	var out strings.Builder
	for _, n := range names {
		out.WriteString("delete table " + n + "\n")
	}
	return out.String()
}

// undoFilter removes what came after the entry.
func (h *Host) undoFilter(ctx context.Context, e entry) (restored bool, err error) {
	i := slices.IndexFunc(filters, func(f filter) bool { return f.list[0] == e.Name })
	if i < 0 {
		return false, nil
	}
	f := filters[i]
	listing, err := h.run(ctx, f.list...)
	if err != nil {
		return false, nil // as in filterNames: no such filter, nothing to remove
	}
	came := slices.DeleteFunc(f.parse(listing), func(n string) bool { return slices.Contains(e.Names, n) })
	if len(came) == 0 {
		return false, nil
	}
	h.step("filter %s", e.Name)
	_, err = h.runWith(ctx, strings.NewReader(f.removal(listing, came)), f.change...)
	return true, err
}

func (h *Host) filterResidue(ctx context.Context, e entry) []string {
	i := slices.IndexFunc(filters, func(f filter) bool { return f.list[0] == e.Name })
	if i < 0 {
		return nil
	}
	names, _ := h.filterNames(ctx, filters[i])
	var residue []string
	for _, n := range names {
		if !slices.Contains(e.Names, n) {
			residue = append(residue, "packet filter ("+e.Name+"): "+n+" was not there before")
		}
	}
	return residue
}
