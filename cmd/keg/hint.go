package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/discover"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/relocate"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitInterrupted = 130
)

// errNotWell is what keg status ends with after it has printed what is wrong.
var errNotWell = errors.New("the cluster is not well")

// refusedError is a check or policy that says no: exit code 3.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// hintedError brings its own cure.
type hintedError struct {
	err  error
	hint string
}

// Error implements error.
func (e *hintedError) Error() string { return e.err.Error() }

// Unwrap returns the error without the cure.
func (e *hintedError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var (
		usage     *usageError
		refused   *refusedError
		preflight *runtime.PreflightError
		skipped   *discover.StrictError
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &skipped):
		return exitRefused
	case errors.As(err, &refused), errors.As(err, &preflight):
		return exitRefused
	}
	return exitFailed
}

// writeError prints one error and, where there is one, what to do about it.
func writeError(w io.Writer, err error) {
	fmt.Fprintf(w, "keg: %s\n", err)
	if h := hint(err); h != "" {
		fmt.Fprintf(w, "hint: %s\n", h)
	}
}

// hint is the cure for an error that has one. Errors of a Kubefile and findings bring their own.
func hint(err error) string {
	var (
		hinted      *hintedError
		registry    *transfer.RegistryError
		missing     *imagestore.MissingError
		unknown     *runtime.UnknownRuntimeError
		certificate *tls.CertificateVerificationError
		platform    *transfer.PlatformError
		hostKey     *remote.HostKeyError
		auth        *remote.AuthError
		sudo        *remote.SudoError
		unavailable *runtime.UnavailableRuntimeError
		args        *builder.BuildArgsError
		chart       *discover.ChartError
		chartFile   *discover.FileError
		collision   *relocate.CollisionError
	)
	switch {
	case errors.As(err, &hinted):
		return hinted.hint
	case errors.As(err, &chart) && len(chart.Missing) > 0:
		return "put a file of values beside the chart (NAME.values.yaml), name it in discover.yaml, or, for images find, give --values FILE"
	case errors.As(err, &chart), errors.As(err, &chartFile):
		return "correct the file, or leave it out of the search (skip in discover.yaml); build --no-discover searches nothing"
	case errors.As(err, &args):
		return "keg basefs checksums writes such a file for the recipes of base images: docs/basefs.md"
	case errors.As(err, &collision):
		return "keep their registries in the paths: --mapping scoped of keg push, --domain-rule prefix of keg basefs export-registry"
	case errors.As(err, &hostKey) && hostKey.Known != "":
		return fmt.Sprintf("if the host was installed anew, remove line %d of %s; if not, somebody may be in between", hostKey.Line, hostKey.File)
	case errors.As(err, &hostKey):
		return "check the key and add it with ssh-keyscan, or trust hosts seen for the first time with --host-key-policy accept-new"
	case errors.As(err, &auth):
		return "give a key with --pk, a password with --passwd-file or KEG_SSH_PASSWORD, or another user with --user"
	case errors.As(err, &sudo):
		return "log in as root, or let the user run sudo without a password, or give its password with --passwd-file"
	case errors.Is(err, remote.ErrPassphrase):
		return "load the key into an agent with ssh-add, or run keg on a terminal, where it asks"
	case errors.Is(err, remote.ErrUnreachable):
		return "check the address and --port, that sshd runs there, and that no firewall is in between"
	case errors.Is(err, &node.Error{Kind: node.KindDiskFull}):
		return "make room on that file system of the host; the same command goes on where it stopped"
	case errors.Is(err, &node.Error{Kind: node.KindBusy}):
		return "wait until that one has ended; one that has lost its network or its power is given up after 75 seconds"
	case errors.Is(err, remote.ErrDisconnected):
		return "see that the host is up and its network works; the same command goes on where it stopped"
	case errors.Is(err, transfer.ErrOffline):
		return "without --offline, keg would ask the registry"
	case errors.Is(err, transfer.ErrUnauthorized) && errors.As(err, &registry):
		return fmt.Sprintf("keg login %s, or ask for access to the repository", registry.Registry)
	case errors.Is(err, transfer.ErrUnauthorized):
		return "keg login REGISTRY, or ask for access to the repository"
	case errors.Is(err, transfer.ErrLimited) && errors.As(err, &registry):
		return fmt.Sprintf("wait, or keg login %s (registries let known users ask more often), or name a mirror with --registry-config", registry.Registry)
	case errors.Is(err, transfer.ErrNotRegistry):
		return "something else answers in the registry's place: a login page of the network, a proxy, or another server; open the address in a browser, and check HTTPS_PROXY and the name"
	case errors.As(err, &certificate):
		return "put the certificate of the registry's CA into /etc/docker/certs.d/HOST:PORT/ca.crt, or trust it on this machine; --insecure HOST:PORT does without"
	case errors.Is(err, transfer.ErrPlainHTTP):
		return "if the registry is meant to speak plain HTTP, name it: --insecure HOST:PORT"
	case errors.As(err, &platform):
		return "take a platform that the image has, or another image; --missing-platform skip leaves it out, any takes what there is"
	case errors.Is(err, transfer.ErrUnreachable):
		return "check the name of the registry and the network; --insecure HOST:PORT allows plain HTTP"
	case errors.Is(err, imagestore.ErrDigest) && errors.As(err, &registry), errors.As(err, &registry) && registry.Code == "BLOB_UNKNOWN":
		return "the registry's copy of the image is damaged: push it there again"
	case errors.Is(err, transfer.ErrNotFound):
		return "check the name and the tag"
	case errors.Is(err, archive.ErrNoName):
		return "give it one: keg load --name NAME for an archive of one image; or save it by name again (docker save NAME, skopeo copy ... oci-archive:FILE:NAME)"
	case errors.Is(err, archive.ErrFormat):
		return "if this was copied, compare sizes and checksums on both sides and copy it again"
	case errors.Is(err, imagestore.ErrDigest) && !errors.As(err, &registry):
		return "if it came in a file, copy that again; if it is in the store, remove the image (keg rmi) and pull or build it anew"
	case errors.As(err, &missing):
		return "parts of the image are missing where it came from: pull, save or copy it again"
	case errors.As(err, &unknown) && unknown.Name == "":
		return "run an image that was built FROM a base image"
	case errors.Is(err, imagestore.ErrNotFound):
		return "keg images lists what is there; keg pull and keg load bring more"
	case errors.Is(err, imagestore.ErrAmbiguous):
		return "give more digits"
	case errors.Is(err, syscall.ENOSPC):
		return "make room on that disk (keg prune removes what no image needs) and run the same command again"
	case errors.Is(err, syscall.EROFS):
		return "write elsewhere; --root DIR or KEG_ROOT makes keg use another store"
	case errors.Is(err, errNoTerminal):
		return "give the password with --passwd-file or KEG_SSH_PASSWORD"
	case errors.As(err, &unavailable):
		return "use a keg that has the driver, or another base image"
	}
	return solverHint(err)
}
