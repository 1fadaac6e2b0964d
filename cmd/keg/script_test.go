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

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"
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
// lets bob in with the password secret, registry REG damaged changes the last byte of every blob.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: registry VARIABLE [tls|private|damaged]")
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	start := (*httptest.Server).Start
	if len(args) == 2 {
		switch args[1] {
		case "tls":
			start = (*httptest.Server).StartTLS
		case "private":
			handler = private(handler)
		case "damaged":
			handler = damaged(handler)
		default:
			ts.Fatalf("registry: unknown kind %s", args[1])
		}
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(server)
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.Listener.Addr().String())
}

func private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "bob" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func damaged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		body := answer.Body.Bytes()
		body[len(body)-1] ^= 1
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body) // the client may be gone
	})
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
