package standin_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

func TestIssue(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, "tls", name) }
	ca, err := standin.OpenCA(file("ca.crt"), file("ca.key"), "ca")
	if err != nil {
		t.Fatal(err)
	}
	again, err := standin.OpenCA(file("ca.crt"), file("ca.key"), "ca")
	if err != nil || again.Hash() != ca.Hash() {
		t.Errorf("the authority changed: %v", err)
	}
	other, err := standin.OpenCA(file("other.crt"), file("other.key"), "ca")
	if err != nil {
		t.Fatal(err)
	}
	leaf := standin.Leaf{CommonName: "server", Hosts: []string{"127.0.0.1", "a.test"}, Server: true}
	more := leaf
	more.Hosts = append(more.Hosts, "b.test")
	for _, step := range []struct {
		name   string
		ca     standin.CA
		leaf   standin.Leaf
		renew  time.Duration
		issued bool
	}{
		{"first", ca, leaf, 0, true},
		{"same", ca, leaf, 120 * 24 * time.Hour, false},
		{"short", ca, leaf, 366 * 24 * time.Hour, true},
		{"another host", ca, more, 0, true},
		{"fewer hosts", ca, leaf, 0, false},
		{"another authority", other, leaf, 0, true},
	} {
		issued, err := step.ca.Issue(file("s.crt"), file("s.key"), step.leaf, step.renew)
		if err != nil || issued != step.issued {
			t.Errorf("%s: issued %v, want %v; %v", step.name, issued, step.issued, err)
		}
	}
	if fi, err := os.Stat(file("s.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v", fi, err)
	}
	keyPEM, request, err := standin.NewKey("node")
	if err != nil || len(keyPEM) == 0 {
		t.Fatal(err)
	}
	if _, err := standin.RequestedKey(request); err != nil {
		t.Error(err)
	}
}
