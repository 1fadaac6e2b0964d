package kubernetes

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"

	"github.com/clusterimage/keg/runtime"
)

// fieldsOf are the fields of the documents that kubeadm v1beta4 reads, and what may stand there, by kind, as of
// fieldsVersion; testdata/e2e/kubernetes/fields prints them and says how.
var fieldsOf = sync.OnceValues(func() (map[string]any, error) {
	var m map[string]any
	err := json.Unmarshal(fieldsJSON, &m)
	return m, err
})

//go:embed fields.json
var fieldsJSON []byte

const fieldsVersion = "1.37"

// apiVersions are those of the kinds that are understood.
var apiVersions = map[string]string{
	kindInit: "kubeadm.k8s.io/v1beta4", kindCluster: "kubeadm.k8s.io/v1beta4", kindJoin: "kubeadm.k8s.io/v1beta4", kindUpgrade: "kubeadm.k8s.io/v1beta4",
	kindKubelet: "kubelet.config.k8s.io/v1beta1", kindProxy: "kubeproxy.config.k8s.io/v1alpha1",
}

// owned are fields that are keg's own, with what to do instead. A path covers all below it.
var owned = map[string]map[string]string{
	kindInit: {
		"bootstrapTokens":            "keg makes join tokens itself, and deletes them when the join is over",
		"certificateKey":             "keg copies the cluster's keys itself",
		"localAPIEndpoint":           "the address of a control plane is the one in --masters",
		"nodeRegistration.name":      "a node has its host's name",
		"nodeRegistration.criSocket": "keg runs containerd at " + criSocket,
		"dryRun":                     "use keg run --dry-run",
	},
	kindCluster: {
		"kubernetesVersion":        "the version is that of the cluster image",
		"clusterName":              "use --name",
		"controlPlaneEndpoint":     "use --endpoint for a load balancer that is there already; else keg balances itself",
		"networking.podSubnet":     "use --env POD_CIDR=, which the pod network also reads",
		"networking.serviceSubnet": "use --env SERVICE_CIDR=",
		"networking.dnsDomain":     "use --env DNS_DOMAIN=",
		"certificatesDir":          "keg knows certificates in " + pkiDir,
		"imageRepository":          "images are those that the cluster image embeds, under the names they have there",
		"etcd.external":            "keg keeps etcd on the control planes",
		"etcd.local.dataDir":       "keg knows the data of etcd in /var/lib/etcd",
	},
	kindJoin: {
		"discovery":                     "keg tells hosts itself where the cluster is",
		"caCertPath":                    "keg knows certificates in " + pkiDir,
		"controlPlane.certificateKey":   "keg copies the cluster's keys itself",
		"controlPlane.localAPIEndpoint": "the address of a control plane is the one in --masters",
		"nodeRegistration.name":         "a node has its host's name",
		"nodeRegistration.criSocket":    "keg runs containerd at " + criSocket,
		"dryRun":                        "use keg run --dry-run",
	},
	kindUpgrade: {
		"apply.kubernetesVersion": "the version is that of the cluster image",
		"apply.dryRun":            "use keg upgrade --dry-run",
		"node.dryRun":             "use keg upgrade --dry-run",
		"plan":                    "keg upgrade --dry-run shows what it does",
		"diff":                    "keg upgrade --dry-run shows what it does",
	},
	kindKubelet: {
		"cgroupDriver":             "kubelet's must be containerd's, which is systemd",
		"containerRuntimeEndpoint": "keg runs containerd at " + criSocket,
		"staticPodPath":            "kubeadm keeps the control plane's pods in /etc/kubernetes/manifests",
	},
	kindProxy: {
		"clusterCIDR": "use --env POD_CIDR=",
	},
}

// CheckRequest refuses documents that kubeadm would not understand, or that say what only keg can know, and
// variables that can be judged without any host.
func (d Driver) CheckRequest(c *runtime.Cluster) []runtime.Finding {
	var list []runtime.Finding
	fields, err := fieldsOf()
	if err != nil {
		return []runtime.Finding{{ID: "config", Severity: runtime.Fatal, Text: "reading the fields of kubeadm's documents: " + err.Error()}}
	}
	unknown := runtime.Fatal
	if newer(c.KubeVersion()) { // it may have fields that this keg has not heard of; kubeadm judges
		unknown = runtime.Warning
	}
	for _, doc := range c.Options.Config {
		list = append(list, checkDocument(doc, fields, unknown)...)
	}
	if v := setting(c, "CONTAINERD", bundled); v != bundled && v != "existing" {
		list = append(list, runtime.Finding{ID: "env", Severity: runtime.Fatal, Text: fmt.Sprintf("CONTAINERD=%q is not understood", v), Cure: "it is one of bundled, existing"})
	}
	if len(c.Nodes) > 0 && c.First() != nil {
		list = append(list, ranges(c)...)
	}
	return list
}

func newer(version string) bool {
	v, err := semver.NewVersion(version)
	known := semver.MustParse(fieldsVersion)
	return err == nil && (v.Major() > known.Major() || v.Major() == known.Major() && v.Minor() > known.Minor())
}

func checkDocument(doc runtime.Document, fields map[string]any, unknown runtime.Severity) []runtime.Finding {
	fail := func(text, cure string) []runtime.Finding {
		return []runtime.Finding{{ID: "config", Severity: runtime.Fatal, Text: doc.Source + ": " + text, Cure: cure}}
	}
	kind := doc.Kind()
	want, ok := apiVersions[kind]
	kinds := strings.Join(slices.Sorted(maps.Keys(apiVersions)), ", ")
	switch {
	case kind == "":
		return fail("the document has no kind", "it is one of "+kinds)
	case kind == "ResetConfiguration":
		return fail("ResetConfiguration is not used", "keg reset takes everything off that keg run put there")
	case !ok:
		return fail(fmt.Sprintf("%s is no kind that kubeadm takes%s", kind, nearest(kind, maps.Keys(apiVersions))), "it is one of "+kinds)
	case doc.Value["apiVersion"] != want:
		return fail(fmt.Sprintf("%s has apiVersion %v", kind, doc.Value["apiVersion"]), "use apiVersion "+want)
	}
	j := judge{doc: doc, unknown: unknown}
	j.value("", doc.Value, fields[kind])
	return j.found
}

// judge compares a document with the fields of its kind.
type judge struct {
	doc     runtime.Document
	unknown runtime.Severity // of what is not in fieldsOf
	found   []runtime.Finding
}

func (j *judge) add(severity runtime.Severity, cure, format string, args ...any) {
	j.found = append(j.found, runtime.Finding{ID: "config", Severity: severity, Text: j.doc.Source + ": " + fmt.Sprintf(format, args...), Cure: cure})
}

// value judges what stands at a path. null takes a key away, and is right everywhere.
func (j *judge) value(at string, value, known any) {
	right := true
	switch known := known.(type) {
	case map[string]any:
		var object map[string]any
		if object, right = value.(map[string]any); right {
			j.object(at, object, known)
		}
	case []any:
		var list []any
		list, right = value.([]any)
		for _, v := range list {
			j.value(at, v, known[0])
		}
	case string:
		right = isOf(known, value)
	}
	if !right && value != nil {
		j.add(j.unknown, "see the reference of "+apiVersions[j.doc.Kind()], "%s of %s is %v, and must be %s", at, j.doc.Kind(), text(value), wanted(known))
	}
}

func (j *judge) object(path string, object, known map[string]any) {
	kind := j.doc.Kind()
	for _, key := range slices.Sorted(maps.Keys(object)) {
		at := strings.TrimPrefix(path+"."+key, ".")
		inner, ok := known[key]
		if all, free := known["*"]; free {
			inner, ok = all, true
		}
		if !ok {
			j.add(j.unknown, "see the reference of "+apiVersions[kind], "%s has no field %s%s", kind, at, nearest(key, maps.Keys(known)))
		} else if instead, ok := owned[kind][at]; ok {
			j.add(runtime.Fatal, instead, "%s of %s is keg's own", at, kind)
		} else {
			j.value(at, object[key], inner)
		}
	}
}

// isOf says whether a plain value is of a type in fieldsOf.
func isOf(known string, value any) bool {
	switch v := value.(type) {
	case string:
		return known == "string" || known == "any"
	case bool:
		return known == "boolean" || known == "any"
	case float64:
		return known == "integer" && v == math.Trunc(v) || known == "any"
	}
	return known == "any"
}

// wanted names what fieldsOf has.
func wanted(known any) string {
	switch known := known.(type) {
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	case string:
		return map[string]string{"string": "text (in quotes, where YAML would see something else)", "boolean": "true or false", "integer": "a whole number"}[known]
	}
	return ""
}

// text is a value as it may stand in a document.
func text(value any) string {
	switch value.(type) {
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	}
	data, _ := json.Marshal(value) // plain values always can be
	return string(data)
}

// nearest is ", did you mean X?" where a known word is near.
func nearest(word string, known iter.Seq[string]) string {
	if best := runtime.Nearest(word, known); best != "" {
		return ", did you mean " + best + "?"
	}
	return ""
}

// ranges judges the address ranges: one of each family at most, of pods and services alike.
func ranges(c *runtime.Cluster) []runtime.Finding {
	env := c.Env(c.First())
	var list []runtime.Finding
	families := map[string][]bool{}
	for _, key := range []string{"POD_CIDR", "SERVICE_CIDR"} {
		var v4 []bool
		for part := range strings.SplitSeq(env[key], ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(part))
			if err != nil {
				return nil // said with more words once hosts are compared
			}
			v4 = append(v4, p.Addr().Is4())
		}
		if len(v4) > 2 || len(v4) == 2 && v4[0] == v4[1] {
			list = append(list, runtime.Finding{
				ID: "cidr", Severity: runtime.Fatal, Text: fmt.Sprintf("%s %q is neither one range nor one of IPv4 and one of IPv6", key, env[key]),
				Cure: fmt.Sprintf("give one such as --env %s=10.244.0.0/16,fd00:10:244::/56", key),
			})
		}
		families[key] = v4
	}
	if list == nil && !slices.Equal(families["POD_CIDR"], families["SERVICE_CIDR"]) {
		list = append(list, runtime.Finding{
			ID: "cidr", Severity: runtime.Fatal, Text: fmt.Sprintf("POD_CIDR %s and SERVICE_CIDR %s are not of the same families in the same order", env["POD_CIDR"], env["SERVICE_CIDR"]),
			Cure: "give both of them two ranges, or both one",
		})
	}
	return list
}
