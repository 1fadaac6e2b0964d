package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a command line that cannot be understood: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// Validators of arguments that say what is wanted.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageErrorf("%q: %s takes no arguments, see %s --help", args[0], c.CommandPath(), c.CommandPath())
	}
	return nil
}

// group gives a command others below it. Alone it prints its help, if it does nothing else; a word that is none of
// them is not taken for an argument.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args = knownCommand
	if c.RunE == nil {
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	c.AddCommand(commands...)
	return c
}

func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cure := "see " + c.CommandPath() + " --help"
	c.SuggestionsMinimumDistance = 2 // cobra sets it only where it looks for commands itself
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		cure = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageErrorf("unknown command %q for %q: %s", args[0], c.CommandPath(), cure)
}

func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageErrorf("%s wants %s, got %s", c.CommandPath(), what, quoteAll(args))
		}
		return nil
	}
}

func minArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return usageErrorf("%s wants %s", c.CommandPath(), what)
		}
		return nil
	}
}

func quoteAll(args []string) string {
	if len(args) == 0 {
		return "nothing"
	}
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = fmt.Sprintf("%q", arg)
	}
	return strings.Join(quoted, " ")
}
