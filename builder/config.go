package builder

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/kubefile"
)

// configure carries out an instruction of the Dockerfile language that only changes the config.
func (a *assembly) configure(c instructions.Command) error {
	config := &a.image.Config
	switch c := c.(type) {
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			config.Env = setEnv(config.Env, kv.Key, kv.Value)
			set(&a.spec.Env, kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		for _, kv := range c.Labels {
			set(&config.Labels, kv.Key, kv.Value)
		}
	case *instructions.MaintainerCommand:
		a.image.Author = c.Maintainer
	case *instructions.UserCommand:
		config.User = c.User
	case *instructions.ExposeCommand:
		for _, spec := range c.Ports {
			ports, err := parsePorts(spec)
			if err != nil {
				return err
			}
			for _, p := range ports {
				set(&config.ExposedPorts, p, struct{}{})
			}
		}
	case *instructions.EntrypointCommand:
		config.Entrypoint = a.commandLine(c.ShellDependantCmdLine)
	case *instructions.VolumeCommand:
		for _, v := range c.Volumes {
			if v == "" {
				return errors.New("VOLUME: a path is empty")
			}
			set(&config.Volumes, v, struct{}{})
		}
	case *instructions.StopSignalCommand:
		config.StopSignal = c.Signal
	case *instructions.HealthCheckCommand:
		config.Healthcheck = c.Health
	case *instructions.ShellCommand:
		config.Shell = c.Shell
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, c.Expression)
	case *instructions.ArgCommand:
	default:
		return fmt.Errorf("%s: this build of keg cannot carry it out", strings.ToUpper(c.Name()))
	}
	return nil
}

func (a *assembly) commandLine(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	shell := a.image.Config.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return slices.Concat(shell, []string{strings.Join(c.CmdLine, " ")})
}

// declare carries out an instruction that only changes what the cluster runs.
func (a *assembly) declare(in kubefile.Instruction) {
	switch in := in.(type) {
	case *kubefile.AppEnv, *kubefile.AppCmds, *kubefile.Launch:
		a.apps.later = append(a.apps.later, in)
	case *kubefile.Cmds:
		if !a.apps.cmds { // the first one replaces what the base has
			a.apps.cmds, a.spec.Cmds = true, nil
		}
		a.spec.Cmds = append(a.spec.Cmds, in.Cmds...)
	case *kubefile.KubeVersion:
		a.spec.KubeVersion = in.Range
	}
}

func setEnv(env []string, key, value string) []string {
	env = slices.Clone(env)
	i := slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, key+"=") })
	if i < 0 {
		return append(env, key+"="+value)
	}
	env[i] = key + "=" + value
	return env
}

// set writes into a copy of a map, which may be nil: the original may be the base image's.
func set[V any](m *map[string]V, key string, value V) {
	c := maps.Clone(*m)
	if c == nil {
		c = map[string]V{}
	}
	c[key] = value
	*m = c
}

// parsePorts reads what EXPOSE takes: "80", "80/udp", "8000-8010/tcp".
func parsePorts(spec string) ([]string, error) {
	ports, proto, ok := strings.Cut(spec, "/")
	if !ok {
		proto = "tcp"
	}
	proto = strings.ToLower(proto)
	low, high, isRange := strings.Cut(ports, "-")
	if !isRange {
		high = low
	}
	first, err1 := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil || last < first || !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return nil, fmt.Errorf("EXPOSE: %q is not PORT[-PORT][/tcp|udp|sctp]", spec)
	}
	var out []string
	for p := first; p <= last; p++ {
		out = append(out, fmt.Sprintf("%d/%s", p, proto))
	}
	return out, nil
}

// Labels by which sealer's images tell their runtime.
const (
	sealerRuntime = "cluster.alpha.sealer.io/cluster-runtime-type"
	sealerVersion = "cluster.alpha.sealer.io/cluster-runtime-version"
)

// ErrMetadata says that the tree is not one that could run.
var ErrMetadata = errors.New("the basefs does not fit")

// label sets keg's own labels: from the file Metadata of the tree, else from labels.
func (a *assembly) label() error {
	labels := maps.Clone(a.image.Config.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, a.req.Labels)
	first := func(names ...string) string {
		for _, n := range names {
			if labels[n] != "" {
				return labels[n]
			}
		}
		return ""
	}
	runtime, version := first(clusterimage.LabelRuntime, sealerRuntime), first(clusterimage.LabelKubeVersion, sealerVersion)
	pos := a.stage().From
	if h, ok := a.held[basefs.MetadataFile]; ok {
		if h.pos.Line > 0 { // else the base brought it
			pos = h.pos
		}
		meta, err := a.metadata(h.data)
		if err != nil {
			return a.at(pos, err)
		}
		if meta.Runtime != "" {
			runtime = meta.Runtime
		}
		version = cmp.Or(meta.KubernetesVersion(), version)
		if runtime == "" {
			return a.at(pos, fmt.Errorf("%w: %s names no ClusterRuntime: it is one of %s", ErrMetadata, basefs.MetadataFile, strings.Join(basefs.Runtimes(), ", ")))
		}
	}
	if runtime != "" && !slices.Contains(basefs.Runtimes(), runtime) { // of a label: ParseMetadata knows them
		return a.at(pos, fmt.Errorf("%w: label %s names the unknown runtime %q: keg knows %s", ErrMetadata, clusterimage.LabelRuntime, runtime, strings.Join(basefs.Runtimes(), ", ")))
	}
	kind := a.req.Type
	if kind == "" {
		kind = clusterimage.TypeApp
		if runtime != "" {
			kind = clusterimage.TypeCluster
		}
	}
	if kind == clusterimage.TypeCluster && runtime == "" {
		return a.at(pos, fmt.Errorf("%w: an image of type %s needs a runtime: a file %s, or the label %s", ErrMetadata, kind, basefs.MetadataFile, clusterimage.LabelRuntime))
	}
	spec, err := json.Marshal(a.spec)
	if err != nil {
		return fmt.Errorf("writing label %s: %w", clusterimage.LabelSpec, err)
	}
	docker := ""
	if runtime == "kubernetes" && basefs.DockerOnly(func(name string) bool { return a.tree.get(name) != nil }) {
		docker = "only"
	}
	for k, v := range map[string]string{
		clusterimage.LabelRuntime: runtime, clusterimage.LabelKubeVersion: version,
		clusterimage.LabelType: kind, clusterimage.LabelSpec: string(spec), clusterimage.LabelDocker: docker,
	} {
		if delete(labels, k); v != "" {
			labels[k] = v
		}
	}
	a.image.Config.Labels = labels
	return nil
}

// metadata reads the file Metadata and checks it against the platform.
func (a *assembly) metadata(data []byte) (basefs.Metadata, error) {
	meta, err := basefs.ParseMetadata(data)
	if err != nil {
		return meta, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	arch := basefs.GOARCH(meta.Arch)
	if arch != "" && arch != a.platform.Architecture ||
		arch != "arm64" && meta.Variant != "" && a.platform.Variant != "" && meta.Variant != a.platform.Variant {
		have := strings.TrimSuffix(meta.Arch+"/"+meta.Variant, "/")
		return meta, fmt.Errorf("%w: %s says it is for %s, and the image is built for %s", ErrMetadata, basefs.MetadataFile, have, a.res.Platform)
	}
	return meta, nil
}
