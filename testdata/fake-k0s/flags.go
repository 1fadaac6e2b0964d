package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// components are what --disable-components takes; the last one is forgiven.
var components = []string{
	"applier-manager", "autopilot", "control-api", "coredns", "csr-approver", "endpoint-reconciler", "helm", "konnectivity-server",
	"kube-controller-manager", "kube-proxy", "kube-scheduler", "metrics-server", "network-provider", "node-role", "system-rbac",
	"update-prober", "windows-node", "worker-config",
}

// options are the flags of controller and worker; install takes the same and writes them into the unit.
type options struct {
	tokenFile, profile, kubeletExtraArgs, criSocket string
	labels                                          map[string]string
	taints, disable                                 []string
	ignorePreFlight                                 bool
	enableWorker, single, noTaints, initOnly        bool
	dynamicConfig, metricsScraper, cloudProvider    bool
}

func (o *options) disabled(component string) bool { return slices.Contains(o.disable, component) }

func debugFlags(f *pflag.FlagSet) {
	f.BoolP("verbose", "v", false, "Verbose logging")
	f.BoolP("debug", "d", false, "Debug logging (implies verbose logging)")
	f.String("debugListenOn", ":6060", "Http listenOn for Debug pprof handler")
}

func dataFlags(f *pflag.FlagSet) {
	f.String("data-dir", "/var/lib/k0s", "Data Directory for k0s. DO NOT CHANGE for an existing setup, things will break!")
	f.String("status-socket", "", "Full file path to the socket file. (default: <rundir>/status.sock)")
}

func configFlag(f *pflag.FlagSet) {
	f.StringP("config", "c", "", `config file, use '-' to read the config from stdin (default "/etc/k0s/k0s.yaml")`)
}

func (o *options) workerFlags(f *pflag.FlagSet) {
	f.String("cidr-range", "", "")
	_ = f.MarkHidden("cidr-range")
	f.String("kubelet-root-dir", "", "Kubelet root directory for k0s")
	f.StringVar(&o.profile, "profile", "default", "worker profile to use on the node")
	f.BoolVar(&o.cloudProvider, "enable-cloud-provider", false, "Whether or not to enable cloud provider support in kubelet")
	f.StringVar(&o.tokenFile, "token-file", "", "Path to the file containing join-token.")
	f.StringToStringP("logging", "l", nil, "Logging Levels for the different components")
	f.Var(&mapValue{&o.labels}, "labels", "Node labels, list of key=value pairs")
	f.StringSliceVar(&o.taints, "taints", nil, "Node taints, list of key=value:effect strings")
	f.StringVar(&o.kubeletExtraArgs, "kubelet-extra-args", "", "extra args for kubelet")
	f.String("iptables-mode", "", "iptables mode (valid values: nft, legacy, auto). default: auto")
	f.BoolVar(&o.ignorePreFlight, "ignore-pre-flight-checks", false, "continue even if pre-flight checks fail")
	f.StringVar(&o.criSocket, "cri-socket", "", "container runtime socket to use, default to internal containerd. Format: [remote|docker]:[path-to-socket]")
}

func (o *options) controllerFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.enableWorker, "enable-worker", false, "enable worker (default false)")
	f.StringSliceVar(&o.disable, "disable-components", nil, "disable components (valid items: "+strings.Join(components[:len(components)-1], ",")+")")
	f.BoolVar(&o.single, "single", false, "enable single node (implies --enable-worker, default false)")
	f.BoolVar(&o.noTaints, "no-taints", false, "disable default taints for controller node")
	f.Bool("enable-k0s-cloud-provider", false, "enables the k0s-cloud-provider (default false)")
	f.Duration("k0s-cloud-provider-update-frequency", 2*time.Minute, "the frequency of k0s-cloud-provider node updates")
	f.Int("k0s-cloud-provider-port", 10258, "the port that k0s-cloud-provider binds on")
	f.BoolVar(&o.dynamicConfig, "enable-dynamic-config", false, "enable cluster-wide dynamic config based on custom resource")
	f.BoolVar(&o.metricsScraper, "enable-metrics-scraper", false, "enable scraping metrics from the controller components (kube-scheduler, kube-controller-manager)")
	f.String("kube-controller-manager-extra-args", "", "extra args for kube-controller-manager")
	f.BoolVar(&o.initOnly, "init-only", false, "only initialize controller and exit")
	f.StringToString("feature-gates", nil, "feature gates to enable (comma separated list of key=value pairs)")
	f.Duration("api-server-stop-timeout", 0, "time to wait for the API server to stop")
}

// check refuses what k0s refuses, and what this stand-in cannot do although k0s can: better now than half done.
func (o *options) check() error {
	for _, c := range o.disable {
		if !slices.Contains(components, c) {
			return fmt.Errorf("unknown component %s", c)
		}
	}
	switch {
	case o.criSocket != "":
		return errors.New("fake-k0s: --cri-socket is not in this stand-in")
	case o.dynamicConfig:
		return errors.New("fake-k0s: --enable-dynamic-config is not in this stand-in")
	case o.cloudProvider:
		return errors.New("fake-k0s: --enable-cloud-provider is not in this stand-in")
	}
	for _, t := range o.taints {
		if err := checkTaint(t); err != nil {
			return err
		}
	}
	return nil
}

func checkTaint(taint string) error {
	rest, effect, found := strings.Cut(taint, ":")
	if found && !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, effect) {
		return fmt.Errorf("can't parse taints for profile config map: invalid taint effect: %s, unsupported taint effect", effect)
	}
	if strings.Count(rest, "=") > 1 || rest == "" || strings.Contains(effect, ":") {
		return fmt.Errorf("can't parse taints for profile config map: invalid taint spec: %s", taint)
	}
	return nil
}

// mapValue is key=value,key=value, which stays in the order of its keys.
type mapValue struct{ m *map[string]string }

func (m *mapValue) Type() string { return "mapStringString" }

func (m *mapValue) String() string {
	if m.m == nil {
		return ""
	}
	var pairs []string
	for key, value := range *m.m {
		pairs = append(pairs, key+"="+value)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func (m *mapValue) Set(text string) error {
	if *m.m == nil {
		*m.m = map[string]string{}
	}
	for pair := range strings.SplitSeq(text, ",") {
		if pair == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return fmt.Errorf("malformed pair, expect string=string")
		}
		(*m.m)[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return nil
}

// unitArgs are the flags that were given, as `k0s install` writes them: sorted, files as absolute paths.
func unitArgs(cmd *cobra.Command) ([]string, error) {
	var args []string
	var failed error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		switch f.Name {
		case "env", "force", "start":
			return
		case "data-dir", "kubelet-root-dir", "token-file", "config":
			absolute, err := filepath.Abs(value)
			failed = errors.Join(failed, err)
			value = absolute
		}
		if kind := f.Value.Type(); kind == "stringSlice" || kind == "stringToString" {
			value = strings.Trim(value, "[]")
		}
		args = append(args, "--"+f.Name+"="+value)
	})
	return args, failed
}
