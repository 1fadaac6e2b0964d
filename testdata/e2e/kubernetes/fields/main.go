// Command fields prints the fields of the documents that kubeadm reads, as JSON: by kind, a mapping for a
// struct or a list of them, and true for anything that has no fields of its own. keg refuses others
// before it reaches a host (runtime/kubernetes/fields.json).
package main

import (
	"encoding/json"
	"log"
	"os"
	"reflect"
	"strings"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
)

func main() {
	all := map[string]any{}
	for _, v := range []any{
		kubeadm.InitConfiguration{}, kubeadm.ClusterConfiguration{}, kubeadm.JoinConfiguration{}, kubeadm.UpgradeConfiguration{},
		kubelet.KubeletConfiguration{}, kubeproxy.KubeProxyConfiguration{},
	} {
		t := reflect.TypeOf(v)
		all[t.Name()] = fields(t, nil)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", " ")
	if err := e.Encode(all); err != nil {
		log.Fatal(err)
	}
}

var marshaler = reflect.TypeFor[json.Marshaler]()

// fields are those of a type; above are the types around it, so that one in itself ends.
func fields(t reflect.Type, above []reflect.Type) any {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) {
		return true
	}
	for _, a := range above {
		if a == t {
			return true
		}
	}
	m := map[string]any{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := fields(f.Type, append(above, t))
		if name == "" && (f.Anonymous || strings.Contains(options, "inline")) {
			if fs, ok := inner.(map[string]any); ok {
				for k, v := range fs {
					m[k] = v
				}
			}
			continue
		}
		if name != "" && name != "-" {
			m[name] = inner
		}
	}
	return m
}
