package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterimage/keg/imagestore/transfer"
)

func newLoginCommand(a *app) *cobra.Command {
	var user, password string
	var fromStdin bool
	c := &cobra.Command{
		Use:   "login REGISTRY",
		Short: "Log in to a registry",
		Long: `Log in to a registry and keep the login where docker keeps it ($DOCKER_CONFIG or ~/.docker),
with the credential helper that is configured there. The password is asked for, or read from
standard input with --password-stdin.`,
		Example: `  keg login -u builder reg.example.com
  keg login -u builder --password-stdin reg.example.com < token`,
		Args: oneArg("a registry"),
		RunE: func(c *cobra.Command, args []string) error {
			show := &display{}
			client, err := a.client(show)
			if err != nil {
				return err
			}
			switch {
			case fromStdin && password != "":
				return usageErrorf("--password and --password-stdin exclude each other")
			case fromStdin && user == "":
				return usageErrorf("--password-stdin needs --username")
			case fromStdin:
				data, err := io.ReadAll(io.LimitReader(a.stdin, 1<<20))
				if err != nil {
					return fmt.Errorf("reading password: %w", err)
				}
				password = strings.TrimRight(string(data), "\r\n")
			case password != "":
				fmt.Fprintln(a.stderr, "keg: warning: others on this machine can read a password on the command line; --password-stdin hides it")
			default:
				if user == "" {
					if user, err = a.ask("Username: "); err != nil {
						return err
					}
				}
				if password, err = a.askSecret("Password: "); err != nil {
					return err
				}
			}
			if err := transfer.Login(c.Context(), client, args[0], user, password, a.dockerConfigDir()); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Login Succeeded!")
			return nil
		},
	}
	c.Flags().StringVarP(&user, "username", "u", "", "user name")
	c.Flags().StringVarP(&password, "password", "p", "", "password (visible to others on this machine)")
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return c
}

func newLogoutCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "logout REGISTRY",
		Short:   "Forget the login to a registry",
		Example: `  keg logout reg.example.com`,
		Args:    oneArg("a registry"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := transfer.Logout(c.Context(), args[0], a.dockerConfigDir()); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Removed login for", args[0])
			return nil
		},
	}
}

// errNoTerminal says that a question cannot be asked.
var errNoTerminal = errors.New("there is no terminal to ask on")

// ask reads a line from the terminal.
func (a *app) ask(question string) (string, error) {
	if _, err := a.terminal(); err != nil {
		return "", err
	}
	fmt.Fprint(a.stderr, question)
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("reading answer: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// askSecret reads a line from the terminal without showing it.
func (a *app) askSecret(question string) (string, error) {
	fd, err := a.terminal()
	if err != nil {
		return "", err
	}
	fmt.Fprint(a.stderr, question)
	secret, err := term.ReadPassword(fd)
	fmt.Fprintln(a.stderr)
	if err != nil {
		return "", fmt.Errorf("reading answer: %w", err)
	}
	return string(secret), nil
}

func (a *app) terminal() (int, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, errNoTerminal
	}
	return int(f.Fd()), nil
}
