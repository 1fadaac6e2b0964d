package runtime

import (
	"errors"
	"strings"
	"testing"

	"github.com/clusterimage/keg/basefs"
)

// namedDriver is a Driver with a name and nothing else.
type namedDriver struct {
	Driver
	name string
}

func (d namedDriver) Name() string { return d.name }

func TestChoose(t *testing.T) {
	kubernetes := []Driver{namedDriver{name: "kubernetes"}}
	all := append(kubernetes, namedDriver{name: "k3s"}, namedDriver{name: "k0s"})
	for _, tt := range []struct {
		name            string
		drivers         []Driver
		metadata, label string
		want            string // name, or the beginning of the error's text
	}{
		{"metadata kubernetes", all, "kubernetes", "", "kubernetes"},
		{"metadata k3s", all, "k3s", "", "k3s"},
		{"metadata k0s", all, "k0s", "", "k0s"},
		{"label", all, "", "k0s", "k0s"},
		{"both", all, "k3s", "k3s", "k3s"},
		{"contradiction", all, "k3s", "k0s", `error: choosing runtime: Metadata says "k3s" and label io.clusterimage.runtime says "k0s"`},
		{"k3s without a driver", kubernetes, "k3s", "", "error: choosing runtime: this build of keg has no driver for k3s, only for kubernetes"},
		{"k0s without a driver, by label", kubernetes, "", "k0s", "error: choosing runtime: this build of keg has no driver for k0s, only for kubernetes"},
		{"unknown", all, "nomad", "", `error: choosing runtime: "nomad" is not one of kubernetes, k3s, k0s`},
		{"unknown label", kubernetes, "", "swarm", `error: choosing runtime: "swarm" is not one of kubernetes, k3s, k0s`},
		{"nothing", all, "", "", "error: choosing runtime: the image names none"},
		{"wrong case", all, "Kubernetes", "", `error: choosing runtime: "Kubernetes" is not one of`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Choose(tt.drivers, basefs.Metadata{Runtime: tt.metadata}, tt.label)
			got := ""
			if err != nil {
				got = "error: " + err.Error()
			} else {
				got = d.Name()
			}
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}

	var unknown *UnknownRuntimeError
	if _, err := Choose(all, basefs.Metadata{Runtime: "nomad"}, ""); !errors.As(err, &unknown) || unknown.Name != "nomad" || len(unknown.Known) != 3 {
		t.Errorf("error %#v", err)
	}
	var unavailable *UnavailableRuntimeError
	if _, err := Choose(kubernetes, basefs.Metadata{Runtime: "k0s"}, ""); !errors.As(err, &unavailable) || unavailable.Name != "k0s" {
		t.Errorf("error %#v", err)
	}
	var contradiction *ContradictionError
	if _, err := Choose(all, basefs.Metadata{Runtime: "k0s"}, "k3s"); !errors.As(err, &contradiction) {
		t.Errorf("error %#v", err)
	}
}
