package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/internal/standin"
)

// light says that there are no programs beside this one, so the light mode answers.
func (v *vars) light() bool {
	_, err := os.Stat(filepath.Join(v.bin, "kubectl"))
	return err != nil
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{Use: "kubectl", Short: "kubectl controls the Kubernetes cluster manager", DisableFlagParsing: true, RunE: func(cmd *cobra.Command, args []string) error {
		v, rest, err := withDataDir(args)
		if err != nil {
			return err
		}
		if _, err := os.Stat(v.adminConf); err != nil {
			return fmt.Errorf("cannot stat k0s kubeconfig, is the server running?: %w", err)
		}
		if v.light() {
			return v.lightKubectl(cmd, rest)
		}
		return become(filepath.Join(v.bin, "kubectl"), append([]string{"kubectl"}, rest...), "KUBECONFIG="+v.adminConf)
	}}
}

func ctrCommand() *cobra.Command {
	return &cobra.Command{Use: "ctr", Short: "containerd CLI", DisableFlagParsing: true, RunE: func(cmd *cobra.Command, args []string) error {
		v, rest, err := withDataDir(args)
		if err != nil {
			return err
		}
		if v.light() {
			return v.lightCtr(cmd, rest)
		}
		return become(filepath.Join(v.bin, "ctr"), append([]string{"ctr"}, rest...), "CONTAINERD_ADDRESS="+filepath.Join(v.run, "containerd.sock"), "CONTAINERD_NAMESPACE=k8s.io")
	}}
}

// withDataDir takes k0s' own flag off the arguments of a tool.
func withDataDir(args []string) (*vars, []string, error) {
	v, err := newVars(nil)
	if err != nil {
		return nil, nil, err
	}
	for i, a := range args {
		if value, ok := strings.CutPrefix(a, "--data-dir="); ok {
			v, err = forData(value)
			return v, append(append([]string{}, args[:i]...), args[i+1:]...), err
		}
		if a == "--data-dir" && i+1 < len(args) {
			v, err = forData(args[i+1])
			return v, append(append([]string{}, args[:i]...), args[i+2:]...), err
		}
	}
	return v, args, nil
}

func forData(dir string) (*vars, error) {
	cmd := &cobra.Command{}
	dataFlags(cmd.Flags())
	if err := cmd.Flags().Set("data-dir", dir); err != nil {
		return nil, err
	}
	return newVars(cmd)
}

// become replaces this process by a program.
func become(program string, args []string, env ...string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return err
	}
	return syscall.Exec(path, args, append(os.Environ(), env...)) //nolint:gosec // a program of the payload
}

func kubeconfigCommand() *cobra.Command {
	admin := &cobra.Command{Use: "admin", Short: "Display Admin's Kubeconfig", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		config, err := v.runningConfig(cmd)
		if err != nil {
			return err
		}
		files := v.tls("ca", "admin")
		for _, file := range []string{files.Cert, files.Key, files.CA} {
			if _, err := os.Stat(file); err != nil {
				return fmt.Errorf("admin PKI file %q not found, check if the control plane is initialized on this node", file)
			}
		}
		ca, caErr := os.ReadFile(files.CA)
		cert, certErr := os.ReadFile(files.Cert)
		key, keyErr := os.ReadFile(files.Key)
		if err := errors.Join(caErr, certErr, keyErr); err != nil {
			return err
		}
		k := newKubeconfig("local", "Default", "user", config.Spec.API.url(config.Spec.API.Port), ca)
		k.Users[0].User.Cert, k.Users[0].User.Key = cert, key
		text, err := yaml.Marshal(k)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}}
	dataFlags(admin.Flags())
	parent := group("kubeconfig", "Create a kubeconfig file for a specified user", admin)
	debugFlags(parent.PersistentFlags())
	return parent
}

// memberList is this host's view of etcd.
func (v *vars) memberList(config *ClusterConfig) (memberStore, error) {
	client := v.tls("etcd/ca", "apiserver-etcd-client")
	if _, err := os.Stat(client.Cert); err != nil {
		return nil, err
	}
	if v.light() {
		return v.lightMembers()
	}
	_, s, err := v.etcdFor(config)
	return standin.NewEtcdClient(s, []string{standin.ClientURL("127.0.0.1")}, client), err
}

func etcdCommand() *cobra.Command {
	setup := func(cmd *cobra.Command) (*ClusterConfig, memberStore, error) {
		v, err := newVars(cmd)
		if err != nil {
			return nil, nil, err
		}
		config, err := v.runningConfig(cmd)
		if err != nil {
			return nil, nil, err
		}
		if config.Spec.Storage.Type != "etcd" {
			return nil, nil, fmt.Errorf("wrong storage type: %s", config.Spec.Storage.Type)
		}
		members, err := v.memberList(config)
		return config, members, err
	}
	list := &cobra.Command{Use: "member-list", Short: "List etcd cluster members (JSON encoded)", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		_, store, err := setup(cmd)
		if err != nil {
			return fmt.Errorf("can't list etcd cluster members: %w", err)
		}
		all, err := store.Members(cmd.Context())
		if err != nil {
			return fmt.Errorf("can't list etcd cluster members: %w", err)
		}
		answer := map[string]map[string]string{"members": {}}
		for _, m := range all {
			if len(m.PeerURLs) > 0 {
				answer["members"][m.Name] = m.PeerURLs[0]
			}
		}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
	}}
	var peer string
	leave := &cobra.Command{Use: "leave", Short: "Leave the etcd cluster, or remove a specific peer", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if peer != "" && net.ParseIP(peer) == nil && !dnsName.MatchString(peer) {
			return fmt.Errorf("invalid argument %q for \"--peer-address\" flag: neither an IP address nor a DNS name", peer)
		}
		config, store, err := setup(cmd)
		if err != nil {
			return fmt.Errorf("can't connect to the etcd: %w", err)
		}
		if peer == "" {
			peer = config.Spec.Storage.Etcd.PeerAddress
		}
		url := standin.PeerURL(peer)
		all, err := store.Members(cmd.Context())
		if err != nil {
			return err
		}
		for _, m := range all {
			if len(m.PeerURLs) > 0 && m.PeerURLs[0] == url {
				return store.Remove(cmd.Context(), url)
			}
		}
		return fmt.Errorf("peer not found: %s", url)
	}}
	leave.Flags().StringVar(&peer, "peer-address", "", "etcd peer address to remove (default <this node's peer address>)")
	parent := group("etcd", "Manage etcd cluster", leave, list)
	debugFlags(parent.PersistentFlags())
	dataFlags(parent.PersistentFlags())
	return parent
}

// probe is one line of sysinfo.
type probe struct {
	Path        []string `json:"path"`
	DisplayName string   `json:"displayName"`
	Prop        string   `json:"prop"`
	Message     string   `json:"message"`
	Category    string   `json:"category"`
	Error       *string  `json:"error"`
}

func sysinfoCommand() *cobra.Command {
	var output, data string
	cmd := &cobra.Command{Use: "sysinfo", Short: "Display system information", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		probes := []probe{
			{Path: []string{"filesystem:" + data}, DisplayName: "File system of " + data, Prop: "known", Category: "pass"},
			{Path: []string{"name"}, DisplayName: "Name resolution: localhost", Category: "pass"},
			{Path: []string{"os"}, DisplayName: "Operating system", Prop: runtime.GOOS, Category: "pass"},
			{Path: []string{"os", "cgroups"}, DisplayName: "Control Groups", Prop: "version 2", Category: "pass"},
		}
		if _, err := net.DefaultResolver.LookupIPAddr(cmd.Context(), "localhost"); err != nil {
			probes[1].Category, probes[1].Message = "rejected", err.Error()
		}
		if cgroupV1() {
			probes[3].Prop, probes[3].Category, probes[3].Message = "version 1", "rejected", "cgroup v1 is not supported"
		}
		failed := false
		for _, p := range probes {
			failed = failed || p.Category == "rejected"
		}
		out := cmd.OutOrStdout()
		switch output {
		case "json":
			text, err := json.MarshalIndent(probes, "", "  ")
			if err != nil {
				return err
			}
			fmt.Fprint(out, string(text))
		case "yaml":
			text, err := yaml.Marshal(probes)
			if err != nil {
				return err
			}
			fmt.Fprint(out, string(text))
		case "text":
			for _, p := range probes {
				fmt.Fprintf(out, "%s%s: %s (%s) %s\n", strings.Repeat("  ", len(p.Path)-1), p.DisplayName, p.Prop, p.Category, p.Message)
			}
		default:
			return fmt.Errorf("unknown output format: %q", output)
		}
		if failed {
			return errors.New("sysinfo failed")
		}
		return nil
	}}
	debugFlags(cmd.PersistentFlags())
	cmd.Flags().Bool("controller", true, "Include controller-specific sysinfo")
	cmd.Flags().Bool("worker", true, "Include worker-specific sysinfo")
	cmd.Flags().StringVar(&data, "data-dir", "/var/lib/k0s", "Data Directory for k0s")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "Output format (valid values: text, json, yaml)")
	return cmd
}
