package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

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
		Args:              oneArg("a registry"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := a.dockerConfigDir()
			if err != nil {
				return err
			}
			switch {
			case fromStdin && password != "":
				return usageErrorf("--password and --password-stdin exclude each other")
			case fromStdin && user == "":
				return usageErrorf("--password-stdin needs --username")
			case fromStdin:
				data, err := io.ReadAll(io.LimitReader(a.input(c.Context()), 1<<20))
				if err != nil {
					return fmt.Errorf("reading password: %w", err)
				}
				password = strings.TrimRight(string(data), "\r\n")
			case password != "":
				fmt.Fprintln(a.stderr, "keg: warning: others on this machine can read a password on the command line; --password-stdin hides it")
			default:
				if user == "" {
					if user, err = a.ask(c.Context(), "Username: "); err != nil {
						return loginQuestion(err)
					}
				}
				if password, err = a.askSecret(c.Context(), "Password: "); err != nil {
					return loginQuestion(err)
				}
			}
			err = transfer.Login(c.Context(), a.client(&display{}), args[0], user, password, dir)
			if errors.Is(err, transfer.ErrUnauthorized) {
				return &hintedError{err, "check the user name and the password"}
			}
			if err != nil {
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

// loginQuestion says how to log in where nobody can be asked.
func loginQuestion(err error) error {
	if errors.Is(err, errNoTerminal) {
		return usageErrorf("%s: give -u USER --password-stdin", err)
	}
	return err
}

func newLogoutCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "logout REGISTRY",
		Short:             "Forget the login to a registry",
		Example:           `  keg logout reg.example.com`,
		Args:              oneArg("a registry"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := a.dockerConfigDir()
			if err != nil {
				return err
			}
			err = transfer.Logout(c.Context(), args[0], dir)
			if errors.Is(err, transfer.ErrNotLoggedIn) { // what was wanted is so
				fmt.Fprintln(a.stdout, "Not logged in to", args[0])
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Removed login for", args[0])
			return nil
		},
	}
}
