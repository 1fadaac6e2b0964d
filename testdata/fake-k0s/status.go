package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// Status is what a running k0s answers on its socket; the names are k0s'.
type Status struct {
	Version, Role, SysInit, StubFile, Output string
	Pid, PPid                                int
	Workloads, SingleNode                    bool
	Args                                     []string
	WorkerToAPIConnectionStatus              struct {
		Message string
		Success bool
	}
	ClusterConfig *ClusterConfig
	K0sVars       map[string]string
}

func newStatus(v *vars, role string, config *ClusterConfig, workloads, single bool) *Status {
	return &Status{
		Version: version, Role: role, Pid: os.Getpid(), Workloads: workloads, SingleNode: single, Args: os.Args, ClusterConfig: config,
		K0sVars: map[string]string{
			"AdminKubeConfigPath": v.adminConf, "BinDir": v.bin, "CertRootDir": v.pki, "DataDir": v.data, "KubeletRootDir": v.kubeletRoot,
			"EtcdCertDir": v.etcdPKI, "EtcdDataDir": v.etcd, "KubeletAuthConfigPath": v.kubeletConf, "ManifestsDir": v.manifests, "RunDir": v.run,
			"OCIBundleDir": v.images, "DefaultStorageType": "etcd", "RuntimeConfigPath": v.runtimeConfig, "StatusSocketPath": v.statusSocket,
			"StartupConfigPath": v.startupConfig,
		},
	}
}

// serveStatus answers on the socket until ctx ends; probe says whether the worker's part reaches an API.
func serveStatus(ctx context.Context, v *vars, status *Status, probe func(context.Context) error) error {
	if err := os.RemoveAll(v.statusSocket); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", v.statusSocket)
	if err != nil {
		return fmt.Errorf("listening on the status socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		answer := *status
		if answer.Workloads && probe != nil {
			if err := probe(r.Context()); err != nil {
				answer.WorkerToAPIConnectionStatus.Message = err.Error()
			} else {
				answer.WorkerToAPIConnectionStatus.Success = true
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() {
		_ = server.Close()
		_ = os.Remove(v.statusSocket)
	})
	return nil
}

// readStatus asks the running k0s.
func readStatus(ctx context.Context, v *vars) (*Status, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", v.statusSocket)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/status", nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("status: can't get %q via %q: %w", "status", v.statusSocket, err)
	}
	defer response.Body.Close()
	status := &Status{}
	if err := json.NewDecoder(response.Body).Decode(status); err != nil {
		return nil, fmt.Errorf("status: can't get %q via %q: can't decode JSON: %w", "status", v.statusSocket, err)
	}
	return status, nil
}

func statusCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "status", Short: "Get k0s instance status information", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		s, err := readStatus(cmd.Context(), v)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		switch format {
		case "json":
			text, err := json.MarshalIndent(s, "", "   ")
			if err != nil {
				return err
			}
			fmt.Fprintln(out, string(text))
		case "yaml":
			text, err := yaml.Marshal(s)
			if err != nil {
				return err
			}
			fmt.Fprintln(out, string(text))
		default:
			fmt.Fprintf(out, "Version: %s\nProcess ID: %d\nRole: %s\nWorkloads: %t\nSingleNode: %t\n", s.Version, s.Pid, s.Role, s.Workloads, s.SingleNode)
			if s.Workloads {
				fmt.Fprintf(out, "Kube-api probing successful: %t\nKube-api probing last error:  %s\n", s.WorkerToAPIConnectionStatus.Success, s.WorkerToAPIConnectionStatus.Message)
			}
		}
		return nil
	}}
	debugFlags(cmd.PersistentFlags())
	cmd.PersistentFlags().String("status-socket", "", "Full path to the k0s status socket (default: <rundir>/status.sock)")
	cmd.Flags().StringVarP(&format, "out", "o", "", "sets type of output to json or yaml")
	return cmd
}

var errStillRunning = errors.New("another k0s process is still running")

// runtimeConfig is what a running k0s leaves for the commands beside it, locked as long as it runs.
type runtimeConfig struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		NodeConfig *ClusterConfig    `json:"nodeConfig,omitempty"`
		Vars       map[string]string `json:"k0sVars"`
	} `json:"spec"`
}

// lock writes the runtime configuration and holds its lock until the process ends.
func (v *vars) lock(status *Status) (*os.File, error) {
	file, err := os.OpenFile(v.runtimeConfig+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor is small
		return nil, errors.Join(errStillRunning, file.Close())
	}
	config := runtimeConfig{APIVersion: configAPIVersion, Kind: "RuntimeConfig"}
	config.Spec.NodeConfig, config.Spec.Vars = status.ClusterConfig, status.K0sVars
	data, err := yaml.Marshal(config)
	if err == nil {
		err = os.WriteFile(v.runtimeConfig, data, 0o600)
	}
	return file, err
}

// locked says whether a k0s runs.
func (v *vars) locked() (bool, error) {
	file, err := os.OpenFile(v.runtimeConfig+".lock", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil, nil //nolint:gosec // a descriptor is small
}

// runningConfig is the configuration that the running k0s was started with, or the one in the file.
func (v *vars) runningConfig(cmd *cobra.Command) (*ClusterConfig, error) {
	if locked, err := v.locked(); err != nil || !locked {
		return v.loadConfig(cmd.InOrStdin())
	}
	data, err := os.ReadFile(v.runtimeConfig)
	if err != nil {
		return nil, err
	}
	var config runtimeConfig
	if err := yaml.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("failed to parse runtime configuration: %w", err)
	}
	if config.Spec.NodeConfig == nil {
		return v.loadConfig(cmd.InOrStdin())
	}
	if started := config.Spec.Vars["StartupConfigPath"]; started != "" {
		v.startupConfig = started
	}
	return config.Spec.NodeConfig, nil
}

func (v *vars) makeDirs(dirs map[string]os.FileMode) error {
	for dir, mode := range dirs {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
		if err := os.Chmod(dir, mode); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Dir(v.statusSocket), 0o755)
}
