package host

import (
	"context"
	"errors"
	"regexp"
	"strings"
)

// userForm is what useradd(8) of all systems takes.
var userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)

// accountFiles are what programs that make and delete accounts leave beside the lists themselves: copies of
// the lists as they were before, and a lock.
var accountFiles = []string{
	"/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/etc/.pwd.lock",
}

// claimUsers notes which of the accounts are missing. Those that are there are nobody's to delete.
func (h *Host) claimUsers(rec *recorder, names []string) ([]entry, error) {
	var records []entry
	for _, name := range names {
		if e := (entry{Kind: kindUser, Name: name}); !rec.has(e) && !h.hasUser(name) {
			records = append(records, e)
		}
	}
	if len(records) == 0 {
		return nil, nil
	}
	for _, f := range accountFiles {
		if rec.has(entry{Kind: kindFile, Name: f}) {
			continue
		}
		before, err := rec.save(f)
		if err != nil {
			return nil, err
		}
		records = append(records, entry{Kind: kindFile, Name: f, Before: &before})
	}
	return records, nil
}

// hasUser says whether /etc/passwd (passwd(5)) has an account of that name. Those of a directory service
// are not looked for: nobody makes them here.
func (h *Host) hasUser(name string) bool {
	for line := range strings.Lines(h.text("/etc/passwd")) {
		if strings.HasPrefix(line, name+":") {
			return true
		}
	}
	return false
}

// undoUser deletes an account that came after the claim. What belonged to it is gone by then.
func (h *Host) undoUser(ctx context.Context, e entry) (bool, error) {
	if !h.hasUser(e.Name) {
		return false, nil
	}
	h.step("userdel %s", e.Name)
	_, err := h.run(ctx, "userdel", e.Name)
	if errors.Is(err, ErrNoProgram) {
		_, err = h.run(ctx, "deluser", e.Name)
	}
	return err == nil, err
}
