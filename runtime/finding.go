package runtime

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity says whether a finding stops a run.
type Severity string

// The severities.
const (
	Fatal   Severity = "error"
	Warning Severity = "warning"
)

// Finding is something a check found, on a host or across hosts, before anything was changed.
type Finding struct {
	// Host is "" where the finding is about the cluster as a whole.
	Host string `json:"host,omitempty"`
	// ID is a stable short name, such as "swap".
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	// Cure is what to do about it.
	Cure string `json:"cure"`
}

// String is the finding in one line.
func (f Finding) String() string {
	text := f.Text
	if f.Host != "" {
		text = f.Host + ": " + text
	}
	return fmt.Sprintf("%s: %s (%s): %s", f.Severity, text, f.ID, f.Cure)
}

// PreflightError says that checks forbid the run. Nothing was changed on any host.
type PreflightError struct {
	// Findings holds warnings as well, errors first.
	Findings []Finding
}

// Error lists all findings, one a line.
func (e *PreflightError) Error() string {
	var b strings.Builder
	n := 0
	for _, f := range e.Findings {
		if f.Severity == Fatal {
			n++
		}
		b.WriteString("\n  " + f.String())
	}
	return fmt.Sprintf("checking before the start: %s:%s", count(n, "error", "errors"), b.String())
}

// judge makes an error of findings if one of them is fatal.
func judge(findings []Finding) error {
	if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == Fatal }) {
		return nil
	}
	list := slices.Clone(findings)
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Host, b.Host))
	})
	return &PreflightError{Findings: list}
}
