package remotetest

import (
	"os"
	"path/filepath"

	_ "embed"
)

// Sudo is a sudo that grants or refuses without any rights of its own: what it runs, runs as the user
// of the test.
type Sudo struct {
	// Password is asked for; "" lets everybody through.
	Password string
	// Refuse lets nobody through.
	Refuse bool
}

//go:embed sudo.sh
var sudoScript []byte

// installPrograms makes the directory that is searched first.
func (s *Server) installPrograms() {
	s.bin = s.opt.Bin
	if s.opt.Sudo == nil {
		return
	}
	dir := s.t.TempDir()
	policy := "ask"
	switch {
	case s.opt.Sudo.Refuse:
		policy = "refuse"
	case s.opt.Sudo.Password == "":
		policy = "grant"
	}
	for name, file := range map[string]struct {
		text []byte
		mode os.FileMode
	}{
		"sudo":          {sudoScript, 0o755},
		"sudo.policy":   {[]byte(policy + "\n"), 0o644},
		"sudo.password": {[]byte(s.opt.Sudo.Password + "\n"), 0o600},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), file.text, file.mode); err != nil {
			s.t.Fatalf("remotetest: %v", err)
		}
	}
	if s.bin != "" {
		dir += ":" + s.bin
	}
	s.bin = dir
}
