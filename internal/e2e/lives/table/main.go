// Command table writes into docs/runtimes.md what the lives of the runtimes found: table DIR FILE, where
// DIR holds the records that make e2e keeps.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

// life is what a record says (package lives).
type life struct {
	Runtime, Against, Hosts string
	Results                 []struct {
		Operation string
		Seconds   float64
		OK        bool
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("wants a directory of records and a file")
	}
	lives, err := read(args[0])
	if err != nil {
		return err
	}
	text, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the table: %s ... %s", args[1], begin, end)
	}
	return os.WriteFile(args[1], []byte(before+begin+"\n"+table(lives)+end+after), 0o644)
}

const (
	begin = "<!-- written by make e2e -->"
	end   = "<!-- end -->"
)

func read(dir string) ([]life, error) {
	var lives []life
	for _, runtime := range []string{"kubernetes", "k3s", "k0s"} {
		data, err := os.ReadFile(filepath.Join(dir, runtime+".json"))
		if err != nil {
			return nil, err
		}
		var l life
		if err := json.Unmarshal(data, &l); err != nil {
			return nil, err
		}
		lives = append(lives, l)
	}
	return lives, nil
}

func table(lives []life) string {
	var b strings.Builder
	row := func(cells ...string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	head, against, hosts, line := []string{""}, []string{"verified against"}, []string{"control planes + workers"}, []string{"---"}
	var operations []string
	for _, l := range lives {
		head, against, hosts, line = append(head, l.Runtime), append(against, l.Against), append(hosts, l.Hosts), append(line, "---")
		for _, r := range l.Results {
			if !slices.Contains(operations, r.Operation) {
				operations = append(operations, r.Operation)
			}
		}
	}
	row(head...)
	row(line...)
	row(against...)
	row(hosts...)
	for _, operation := range operations {
		cells := []string{operation}
		for _, l := range lives {
			cell := "not tried"
			for _, r := range l.Results {
				if r.Operation == operation {
					cell = map[bool]string{true: fmt.Sprintf("yes, %.0f s", r.Seconds), false: "no"}[r.OK]
				}
			}
			cells = append(cells, cell)
		}
		row(cells...)
	}
	return b.String()
}
