package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// unitText is the unit that `k0s install` writes, to the byte.
func unitText(program string, args, env []string) string {
	var b strings.Builder
	b.WriteString("[Unit]\nDescription=k0s - Zero Friction Kubernetes\nDocumentation=https://docs.k0sproject.io\nConditionFileIsExecutable=" + program +
		"\n\nAfter=network-online.target \nWants=network-online.target \n\n[Service]\nStartLimitInterval=5\nStartLimitBurst=10\nExecStart=" + program)
	for _, a := range args {
		b.WriteString(" " + escape(a))
	}
	for _, e := range env {
		b.WriteString("\nEnvironment=\"" + e + "\"")
	}
	b.WriteString("\n\nRestartSec=10\nDelegate=yes\nKillMode=process\nLimitCORE=infinity\nTasksMax=infinity\nTimeoutStartSec=0\n" +
		"LimitNOFILE=999999\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n")
	return b.String()
}

// escape does to an argument of ExecStart what k0s does: blanks only.
func escape(argument string) string { return strings.ReplaceAll(argument, " ", `\x20`) }

// openRCText is the script that `k0s install` writes where OpenRC is.
func openRCText(program string, args, env []string) string {
	var b strings.Builder
	b.WriteString("#!/sbin/openrc-run")
	for _, e := range env {
		b.WriteString("\nexport " + e)
	}
	b.WriteString("\nsupervisor=supervise-daemon\ndescription=\"k0s - Zero Friction Kubernetes\"\ncommand=" + program + "\ncommand_args=\"")
	for _, a := range args {
		b.WriteString("'" + a + "' ")
	}
	b.WriteString("\"\nname=$(basename $(readlink -f $command))\n" +
		"supervise_daemon_args=\"--stdout /var/log/${name}.log --stderr /var/log/${name}.err\"\nretry=\"SIGTERM/90/SIGKILL/5\"\n\n" +
		": \"${rc_ulimit=-n 1048576 -u unlimited}\"\n\ndepend() { \n\tneed cgroups \n\tneed net \n\tuse dns \n\tafter firewall\n}\n")
	return b.String()
}

// initSystem is how services are run here.
type initSystem interface {
	// file is the service's definition.
	file(name string) string
	text(program string, args, env []string) string
	enable(ctx context.Context, name string) error
	disable(ctx context.Context, name string) error
	// state is running, stopped, failed or absent.
	state(ctx context.Context, name string) string
	start(ctx context.Context, name string) error
	stop(ctx context.Context, name string) error
}

func detectInit() initSystem {
	if os.Getenv(rootEnv) != "" {
		return bare{}
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		if _, err := os.Stat("/sbin/openrc-run"); err == nil {
			return openRC{}
		}
	}
	return systemd{}
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%q failed: %w, %s", name, err, text)
	}
	return text, nil
}

type systemd struct{}

func (systemd) file(name string) string                        { return "/etc/systemd/system/" + name + ".service" }
func (systemd) text(program string, args, env []string) string { return unitText(program, args, env) }

func (systemd) enable(ctx context.Context, name string) error {
	if _, err := run(ctx, "systemctl", "enable", name+".service"); err != nil {
		return err
	}
	_, err := run(ctx, "systemctl", "daemon-reload")
	return err
}

func (systemd) disable(ctx context.Context, name string) error {
	if _, err := run(ctx, "systemctl", "disable", name+".service"); err != nil {
		return err
	}
	if err := os.Remove(systemd{}.file(name)); err != nil {
		return err
	}
	_, err := run(ctx, "systemctl", "daemon-reload")
	return err
}

func (s systemd) state(ctx context.Context, name string) string {
	out, _ := run(ctx, "systemctl", "is-active", name+".service")
	switch {
	case strings.HasPrefix(out, "active"), strings.HasPrefix(out, "activating"):
		return "running"
	case strings.HasPrefix(out, "failed"):
		return "failed"
	}
	if _, err := os.Stat(s.file(name)); err == nil && strings.HasPrefix(out, "inactive") {
		return "stopped"
	}
	return "absent"
}

func (systemd) start(ctx context.Context, name string) error {
	_, err := run(ctx, "systemctl", "start", name+".service")
	return err
}

func (systemd) stop(ctx context.Context, name string) error {
	_, err := run(ctx, "systemctl", "stop", name+".service")
	return err
}

type openRC struct{}

func (openRC) file(name string) string                        { return "/etc/init.d/" + name }
func (openRC) text(program string, args, env []string) string { return openRCText(program, args, env) }

func (o openRC) enable(ctx context.Context, name string) error {
	if err := os.Chmod(o.file(name), 0o755); err != nil { //nolint:gosec // a script of the init system
		return err
	}
	_, err := run(ctx, "rc-update", "add", name)
	return err
}

func (o openRC) disable(ctx context.Context, name string) error {
	if err := os.Remove(o.file(name)); err != nil {
		return err
	}
	_, err := run(ctx, "rc-update", "delete", name)
	return err
}

func (o openRC) state(ctx context.Context, name string) string {
	if _, err := os.Stat(o.file(name)); err != nil {
		return "absent"
	}
	if _, err := run(ctx, "rc-service", name, "status"); err != nil {
		return "stopped"
	}
	return "running"
}

func (openRC) start(ctx context.Context, name string) error {
	_, err := run(ctx, "rc-service", name, "start")
	return err
}

func (openRC) stop(ctx context.Context, name string) error {
	_, err := run(ctx, "rc-service", name, "stop")
	return err
}

// bare is for tests below FAKE_K0S_ROOT: no init system, the unit is read and its command started.
type bare struct{}

func (bare) file(name string) string                        { return under("/etc/systemd/system/" + name + ".service") }
func (bare) text(program string, args, env []string) string { return unitText(program, args, env) }
func (bare) enable(context.Context, string) error           { return nil }
func (b bare) disable(_ context.Context, name string) error { return os.Remove(b.file(name)) }
func (bare) pidFile(name string) string                     { return under("/run/" + name + ".pid") }

func (b bare) pid(name string) int {
	var pid int
	data, err := os.ReadFile(b.pidFile(name))
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(data), &pid); err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}

func (b bare) state(_ context.Context, name string) string {
	if _, err := os.Stat(b.file(name)); err != nil {
		return "absent"
	}
	if b.pid(name) != 0 {
		return "running"
	}
	return "stopped"
}

func (b bare) start(_ context.Context, name string) error {
	data, err := os.ReadFile(b.file(name))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		command, ok := strings.CutPrefix(line, "ExecStart=")
		if !ok {
			continue
		}
		args := strings.Fields(command)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], `\x20`, " ")
		}
		log, err := os.OpenFile(under("/var/log/"+name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
		cmd := exec.Command(args[0], args[1:]...) //nolint:noctx,gosec // a daemon, of the unit that this program wrote
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		return os.WriteFile(b.pidFile(name), []byte(fmt.Sprint(cmd.Process.Pid)), 0o600)
	}
	return fmt.Errorf("no ExecStart in %s", b.file(name))
}

func (b bare) stop(ctx context.Context, name string) error {
	pid := b.pid(name)
	if pid == 0 {
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	for b.pid(name) != 0 {
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return os.Remove(b.pidFile(name))
}

// installed is the name of the service that there is, and its state.
func installed(ctx context.Context) (name, state string, err error) {
	init := detectInit()
	for _, role := range []string{roleController, roleWorker} {
		switch state := init.state(ctx, "k0s"+role); state {
		case "absent":
		case "failed":
			return "k0s" + role, state, errors.New("service in failed state")
		default:
			return "k0s" + role, state, nil
		}
	}
	return "", "", errors.New("k0s has not been installed as a service")
}

func requireRoot() error {
	if os.Geteuid() != 0 && os.Getenv(rootEnv) == "" {
		return errors.New("this command must be run as root")
	}
	return nil
}

// install writes the service of a role.
func install(ctx context.Context, role string, args, env []string, force bool) error {
	init, name := detectInit(), "k0s"+role
	if force {
		fmt.Fprintln(os.Stderr, "level=info msg=\"Uninstalling "+name+" service\"")
		if err := init.disable(ctx, name); err != nil {
			fmt.Fprintln(os.Stderr, "level=warning msg=\"failed to uninstall service: "+err.Error()+"\"")
		}
	}
	file := init.file(name)
	if _, err := os.Stat(file); err == nil {
		return fmt.Errorf("failed to install %s service: Init already exists: %s", role, file)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(init.text(program, append([]string{role}, args...), env)), 0o644); err != nil { //nolint:gosec // a unit is for all to read
		return err
	}
	return init.enable(ctx, name)
}

func (u *UsersSpec) names() []string {
	list := []string{u.Etcd, u.Kine, u.Konnectivity, u.KubeAPIServer, u.KubeScheduler}
	slices.Sort(list)
	return slices.Compact(list)
}

// ensureUsers makes the system users that are missing.
func ensureUsers(ctx context.Context, users *UsersSpec, home string) error {
	if os.Getenv(rootEnv) != "" {
		return nil
	}
	for _, name := range users.names() {
		if _, err := user.Lookup(name); err == nil {
			continue
		}
		shell, err := exec.LookPath("nologin")
		if err != nil {
			if shell, err = exec.LookPath("false"); err != nil {
				return errors.New("failed to locate a nologin shell for creating users")
			}
		}
		_, err = run(ctx, "useradd", "--home", home, "--shell", shell, "--system", "--no-create-home", name)
		if errors.Is(err, exec.ErrNotFound) {
			_, err = run(ctx, "adduser", "--disabled-password", "--gecos", "", "--home", home, "--shell", shell, "--system", "--no-create-home", name)
		}
		if err != nil {
			return fmt.Errorf("failed to create controller users: %w", err)
		}
	}
	return nil
}

func deleteUsers(ctx context.Context, users *UsersSpec) {
	for _, name := range users.names() {
		if _, err := user.Lookup(name); err != nil || os.Getenv(rootEnv) != "" {
			continue
		}
		if _, err := run(ctx, "userdel", name); errors.Is(err, exec.ErrNotFound) {
			_, _ = run(ctx, "deluser", name)
		}
	}
}
