// Command fake-k0s is a strict stand-in for k0s: the same commands, flags, files, unit, tokens and join
// API, and, with a payload behind it, a real cluster. README.md says what it checks and what not.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(1) //nolint:forbidigo,gocritic // this is main
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{Use: "k0s", Short: "k0s - Zero Friction Kubernetes", SilenceUsage: true}
	root.AddCommand(versionCommand(), installCommand(), startCommand(), stopCommand(), statusCommand(), resetCommand(), tokenCommand(),
		configCommand(), kubeconfigCommand(), kubectlCommand(), ctrCommand(), etcdCommand(), backupCommand(), restoreCommand(),
		sysinfoCommand(), airgapCommand(), controllerCommand(), workerCommand())
	return root
}

// group is a command that only has commands below it.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return pflag.ErrHelp }}
	cmd.AddCommand(commands...)
	return cmd
}

func versionCommand() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{Use: "version", Short: "Print the k0s version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		out := cmd.OutOrStdout()
		info := []struct{ name, version string }{{"k0s", version}, {"kubernetes", kubernetesVersion()[1:]}, {"etcd", "3.7.3"}, {"containerd", "2.4.2"}}
		switch {
		case all:
			for _, i := range info {
				fmt.Fprintln(out, i.name, ":", i.version)
			}
		case asJSON:
			object := map[string]string{}
			for _, i := range info {
				object[i.name] = i.version
			}
			text, err := json.MarshalIndent(object, "", "   ")
			if err != nil {
				return err
			}
			fmt.Fprintln(out, string(text))
		default:
			fmt.Fprintln(out, version)
		}
		return nil
	}}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "use to print all k0s version info")
	cmd.Flags().BoolVarP(&asJSON, "json", "j", false, "use to print all k0s version info in json")
	return cmd
}

func installCommand() *cobra.Command {
	var force, start bool
	var env []string
	parent := group("install", "Install k0s on a brand-new system. Must be run as root (or with sudo)")
	debugFlags(parent.PersistentFlags())
	parent.PersistentFlags().BoolVar(&force, "force", false, "Force init script creation")
	parent.PersistentFlags().BoolVar(&start, "start", false, "Start the service immediately after installation")
	parent.PersistentFlags().StringArrayVarP(&env, "env", "e", nil, "Set environment variables (<name>=<value> or just <name>)")
	finish := func(cmd *cobra.Command, role string) error {
		args, err := unitArgs(cmd)
		if err != nil {
			return err
		}
		if err := install(cmd.Context(), role, args, env, force); err != nil {
			return err
		}
		if start {
			return startService(cmd.Context(), force)
		}
		return nil
	}
	var c, w options
	controller := &cobra.Command{Use: roleController, Aliases: []string{"server"}, Short: "Install k0s controller on a brand-new system. Must be run as root (or with sudo)", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := requireRoot(); err != nil {
			return err
		}
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		if v.startupConfig == "-" {
			return errors.New("failed to load node config: cannot read configuration from standard input when installing k0s")
		}
		config, err := v.loadConfig(cmd.InOrStdin())
		if err != nil {
			return fmt.Errorf("failed to load node config: %w", err)
		}
		if err := config.validate(); err != nil {
			return fmt.Errorf("invalid node config: %w", err)
		}
		if err := ensureUsers(cmd.Context(), config.Spec.Install.Users, v.data); err != nil {
			return err
		}
		return finish(cmd, roleController)
	}}
	dataFlags(controller.Flags())
	c.controllerFlags(controller.Flags())
	c.workerFlags(controller.Flags())
	configFlag(controller.Flags())
	worker := &cobra.Command{Use: roleWorker, Short: "Install k0s worker on a brand-new system. Must be run as root (or with sudo)", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := requireRoot(); err != nil {
			return err
		}
		return finish(cmd, roleWorker)
	}}
	dataFlags(worker.Flags())
	w.workerFlags(worker.Flags())
	parent.AddCommand(controller, worker)
	return parent
}

// startService starts what is installed. A unit that failed is not started: it wants "systemctl reset-failed" first.
func startService(ctx context.Context, again bool) error {
	name, state, err := installed(ctx)
	if err != nil {
		return err
	}
	if state == "running" && !again {
		return errors.New("already running")
	}
	if state == "running" {
		if err := detectInit().stop(ctx, name); err != nil {
			return fmt.Errorf("failed to restart service: %w", err)
		}
	}
	return detectInit().start(ctx, name)
}

func startCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "start", Short: "Start the k0s service configured on this host. Must be run as root (or with sudo)", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := requireRoot(); err != nil {
			return err
		}
		return startService(cmd.Context(), false)
	}}
	debugFlags(cmd.PersistentFlags())
	return cmd
}

func stopCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "stop", Short: "Stop the k0s service configured on this host. Must be run as root (or with sudo)", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := requireRoot(); err != nil {
			return err
		}
		name, state, err := installed(cmd.Context())
		if err != nil {
			return err
		}
		if state == "stopped" {
			return errors.New("already stopped")
		}
		return detectInit().stop(cmd.Context(), name)
	}}
	debugFlags(cmd.PersistentFlags())
	return cmd
}

func tokenCommand() *cobra.Command {
	check := func(role string) error {
		if role != roleController && role != roleWorker {
			return fmt.Errorf("unsupported role %q; supported roles are %q and %q", role, roleController, roleWorker)
		}
		return nil
	}
	var role, expiry, listRole string
	create := &cobra.Command{
		Use: "create", Short: "Create join token", Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return check(role) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := newVars(cmd)
			if err != nil {
				return err
			}
			duration, err := time.ParseDuration(expiry)
			if err != nil {
				return err
			}
			status, err := readStatus(cmd.Context(), v)
			if err != nil {
				return fmt.Errorf("failed to get k0s status: %w", err)
			}
			if status.SingleNode {
				return errors.New("refusing to create token: cannot join into a single node cluster")
			}
			config, err := v.runningConfig(cmd)
			if err != nil {
				return err
			}
			text, err := createToken(cmd.Context(), v, config, role, duration)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	dataFlags(create.Flags())
	create.Flags().StringVar(&expiry, "expiry", "0s", "Expiration time of the token. Format 1.5h, 2h45m or 300ms.")
	create.Flags().StringVar(&role, "role", roleWorker, "Either worker or controller")
	create.Flags().Bool("wait", false, "wait forever (default false)")
	list := &cobra.Command{
		Use: "list", Short: "List join tokens", Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return check(listRole) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := newVars(cmd)
			if err != nil {
				return err
			}
			client, err := adminClient(v)
			if err != nil {
				return err
			}
			all, err := tokens(cmd.Context(), client)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "No k0s join tokens found")
				return nil
			}
			width := len(listRole)
			fmt.Fprintf(cmd.OutOrStdout(), "ID       %-*s   EXPIRES AT\n", width, "ROLE")
			for _, t := range all {
				if t.role() == listRole {
					fmt.Fprintf(cmd.OutOrStdout(), "%s   %-*s   %s\n", t.Data["token-id"], width, t.role(), t.Data["expiration"])
				}
			}
			return nil
		},
	}
	dataFlags(list.Flags())
	list.Flags().StringVar(&listRole, "role", "", "Either worker, controller or empty for all roles")
	invalidate := &cobra.Command{Use: "invalidate join-token...", Short: "Invalidates existing join token", Args: cobra.MinimumNArgs(1), RunE: func(cmd *cobra.Command, ids []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		client, err := adminClient(v)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := invalidateToken(cmd.Context(), client, id); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "token %s deleted successfully\n", id)
		}
		return nil
	}}
	dataFlags(invalidate.Flags())
	return group("token", "Manage join tokens", list, invalidate, create)
}

func configCommand() *cobra.Command {
	var images bool
	create := &cobra.Command{Use: "create", Short: "Output the default k0s configuration yaml to stdout", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		config := defaultConfig()
		if !images {
			config.Spec.Images = nil
		}
		text, err := yaml.Marshal(config)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}}
	create.Flags().BoolVar(&images, "include-images", false, "include the default images in the output")
	debugFlags(create.PersistentFlags())
	validate := &cobra.Command{Use: "validate", Short: "Validate k0s configuration", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		file, err := cmd.Flags().GetString("config")
		if err != nil {
			return err
		}
		if file == "" {
			return errors.New("--config can't be empty")
		}
		config, err := (&vars{startupConfig: file}).loadConfig(cmd.InOrStdin())
		if err != nil {
			return fmt.Errorf("failed to parse configuration: %w", err)
		}
		return config.validate()
	}}
	debugFlags(validate.PersistentFlags())
	configFlag(validate.Flags())
	_ = validate.MarkFlagRequired("config")
	parent := group("config", "Configuration related sub-commands", create, validate)
	parent.PersistentFlags().StringToString("feature-gates", nil, "feature gates to enable (comma separated list of key=value pairs)")
	return parent
}

func airgapCommand() *cobra.Command {
	var all bool
	list := &cobra.Command{Use: "list-images", Short: "List image names and versions needed for airgapped installations", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		config, err := v.loadConfig(cmd.InOrStdin())
		if err != nil {
			return fmt.Errorf("failed to get node config: %w", err)
		}
		for _, ref := range imageList(config.Spec, all) {
			fmt.Fprintln(cmd.OutOrStdout(), ref)
		}
		return nil
	}}
	dataFlags(list.Flags())
	configFlag(list.Flags())
	debugFlags(list.PersistentFlags())
	list.Flags().BoolVar(&all, "all", false, "include all images, even if they are not used in the current configuration")
	list.Flags().String("platform", "", "the platform to list images for")
	return group("airgap", "Tooling for airgapped installations", list)
}
