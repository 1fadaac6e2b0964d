// Command fields prints the fields of the documents that kubeadm reads, as JSON: by kind, a mapping for a
// struct, one with the only field "*" for a mapping of any keys, a list with one element for a list, and the
// name of a type for a plain value; any is one that is not known. keg refuses others before it reaches a host
// (runtime/kubernetes/fields.json).
package main

import (
	"encoding/json"
	"log"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

var (
	marshaler = reflect.TypeFor[json.Marshaler]()
	duration  = reflect.TypeFor[metav1.Duration]()
)

const unknown = "any"

// fields are those of a type; above are the types around it, so that one in itself ends.
func fields(t reflect.Type, above []reflect.Type) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == duration:
		return "string"
	case t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) || slices.Contains(above, t):
		return unknown
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "integer"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "string" // base64
		}
		return []any{fields(t.Elem(), above)}
	case reflect.Map:
		return map[string]any{"*": fields(t.Elem(), above)}
	case reflect.Struct:
	default:
		return unknown
	}
	m := map[string]any{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := fields(f.Type, append(above, t))
		if name == "" && (f.Anonymous || strings.Contains(options, "inline")) {
			if fs, ok := inner.(map[string]any); ok {
				maps.Copy(m, fs)
			}
			continue
		}
		if name != "" && name != "-" {
			m[name] = inner
		}
	}
	return m
}
