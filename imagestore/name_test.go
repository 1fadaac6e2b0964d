package imagestore_test

import (
	"strings"
	"testing"

	"github.com/clusterimage/keg/imagestore"
)

func TestParseName(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	for in, want := range map[string]string{
		"shop":                         "docker.io/library/shop:latest",
		"team/shop:v1":                 "docker.io/team/shop:v1",
		"localhost/shop":               "localhost/shop:latest",
		"LOCALHOST:5000/shop":          "LOCALHOST:5000/shop:latest",
		"10.0.0.1:5000/a/b/c:v1":       "10.0.0.1:5000/a/b/c:v1",
		"[::1]:5000/x":                 "[::1]:5000/x:latest",
		"a.b-c.example/a_b/c__d/e--f":  "a.b-c.example/a_b/c__d/e--f:latest",
		"reg.example.com/shop:V1.0_x-": "reg.example.com/shop:V1.0_x-",
		"shop@sha256:" + hex:           "docker.io/library/shop@sha256:" + hex,
		"shop:v1@sha256:" + hex:        "docker.io/library/shop@sha256:" + hex,
	} {
		ref, err := imagestore.ParseName(in)
		if err != nil {
			t.Errorf("ParseName(%q): %v", in, err)
			continue
		}
		if got := imagestore.FullName(ref); got != want {
			t.Errorf("ParseName(%q) = %s, want %s", in, got, want)
		}
		if again, err := imagestore.ParseName(want); err != nil || imagestore.FullName(again) != want {
			t.Errorf("%s read again: %v, %v", want, again, err)
		}
	}
	for _, in := range []string{
		"", ":", "a:", "a b", "UPPER", "a/B", "http://reg.example.com/x", "a@sha256:12",
		".", "..", "../../x", "./x", "a/../b", "a/..", "a//b", "/a", "a/", "a..b", "a/.b", "a/b.", ".reg/a", "reg-:5000/a",
		"-a", "a-", "_a", "a___b", "a:-x", "a:.x", "reg:port/a", "reg.example.com:/a", "a:" + strings.Repeat("t", 129), strings.Repeat("a", 300),
		"a\nb", "a\x00",
	} {
		if ref, err := imagestore.ParseName(in); err == nil {
			t.Errorf("ParseName(%q) = %s", in, imagestore.FullName(ref))
		}
	}
}
