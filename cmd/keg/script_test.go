package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clusterimage/keg/internal/registrytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keg": main})
}

// TestScripts runs testdata/script/*.txtar: keg as a user types it, a process each time.
func TestScripts(t *testing.T) {
	sample, err := filepath.Abs("../../testdata/sample")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "../../testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("KEG_ROOT", filepath.Join(e.WorkDir, "store"))
			e.Setenv("DOCKER_CONFIG", filepath.Join(e.WorkDir, "docker"))
			e.Setenv("SAMPLE", sample)
			return os.Mkdir(filepath.Join(e.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"registry": startRegistry,
			"code":     wantCode,
			"cut":      interrupt,
		},
	})
}

// startRegistry starts an in-memory registry on the loopback address and puts its address into the
// variable named: registry REG; registry REG tls has a certificate that nobody knows, registry REG private
// lets bob in with the password secret, registry REG damaged changes the last byte of every blob, cut=N ends
// every answer after N bytes of a blob, failing answers each request with 503 first, limited asks everybody to
// come back in an hour, page shows a login page.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: registry VARIABLE [tls|private|damaged|cut=N|failing|limited|page]")
	}
	handler := registrytest.Handler()
	start := (*httptest.Server).Start
	if len(args) == 2 {
		kind, number, _ := strings.Cut(args[1], "=")
		n, _ := strconv.Atoi(number)
		faults := map[string]registrytest.Fault{
			"tls":     func(next http.Handler) http.Handler { return next },
			"private": registrytest.Private("bob", "secret"),
			"damaged": registrytest.WrongDigest(0),
			"cut":     registrytest.CutBlobs(n),
			"limited": registrytest.FailTimes(-1, http.StatusTooManyRequests, "Retry-After", "3600"),
			"failing": registrytest.FailOnce(http.StatusServiceUnavailable),
			"page":    registrytest.HTML(registrytest.IsAny, http.StatusOK),
		}
		fault, ok := faults[kind]
		if !ok {
			ts.Fatalf("registry: unknown kind %s", args[1])
		}
		handler = fault(handler)
		if kind == "tls" {
			start = (*httptest.Server).StartTLS
		}
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(server)
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.Listener.Addr().String())
}

// wantCode runs a program that must exit with a code: code 2 keg images -o xml.
func wantCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code NUMBER PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s exited with %d, want %d", fmt.Sprint(args[1:]), got, want)
	}
}
