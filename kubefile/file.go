// Package kubefile reads Kubefiles: the Dockerfile language, by BuildKit's own parser, and the cluster
// instructions on top. It turns text into typed values with positions and does nothing else: no files,
// no network, no environment.
package kubefile

import (
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Pos is a place in a Kubefile. Lines and columns (in bytes) count from 1.
type Pos struct{ Line, Column int }

// File is a Kubefile. It is a value: resolving it makes a new one.
type File struct {
	// Name is what errors call it, such as "Kubefile" or "ctx/Kubefile".
	Name string
	// Source is the text it was read from.
	Source []byte
	// Args are the ARG instructions before the first FROM.
	Args []*Docker
	// Stages are in the order of the text; the last one is the cluster image.
	Stages []*Stage
	// ArgsFile is what the directive # build-args=FILE says, with variables (see BuildArgsFile), or "".
	ArgsFile string

	argsLine *line // the directive, for errors
}

// Stage is a FROM and what follows it.
type Stage struct {
	// Name is the name after AS, lower case, or "".
	Name string
	// Base is the image, "scratch" or an earlier stage's name; with variables until it is resolved.
	Base string
	// Platform is the value of --platform, or "".
	Platform string
	// From is where the FROM stands.
	From Pos
	// Text is the FROM instruction as it was written, continuation lines joined.
	Text string
	// Instructions follow the FROM, in order.
	Instructions []Instruction

	line  *line // the FROM, for errors
	file  *File // as parsed: global ARGs and earlier stages are found there
	index int   // which stage of file this is
}

// Instruction is one instruction of a stage: *Docker, *App, *AppEnv, *AppCmds, *Launch, *Cmds,
// *KubeVersion or *Images.
type Instruction interface {
	// Pos is where it begins.
	Pos() Pos
	// EndLine is the line that it ends in; its heredocs belong to it.
	EndLine() int
	// Text is what was written, continuation lines joined.
	Text() string
	// Comments are the comment lines right above it, without their #. Parser directives are not among them.
	Comments() []string
	instruction()
}

// at is what all instructions share.
type at struct {
	pos  Pos
	text string
	line *line
}

func (a at) Pos() Pos     { return a.pos }
func (a at) Text() string { return a.text }
func (at) instruction()   {}

func (a at) EndLine() int { return a.line.end(a.pos) }

func (a at) Comments() []string {
	if a.line == nil {
		return nil
	}
	return a.line.comments
}

// EndLine is the line that the FROM ends in.
func (s *Stage) EndLine() int { return s.line.end(s.From) }

// Comments are the comment lines right above the FROM, without their #.
func (s *Stage) Comments() []string {
	if s.line == nil {
		return nil
	}
	return s.line.comments
}

// Docker is an instruction of the Dockerfile language other than FROM and CMD, as BuildKit types it:
// use a type switch on Command (*instructions.CopyCommand, *instructions.AddCommand, ...).
type Docker struct {
	at
	Command instructions.Command

	node *parser.Node // typed afresh for each resolution, because BuildKit expands commands in place
}

// AppRole says what APP, CNI and CSI have apart.
type AppRole string

// The three instructions that declare an app.
const (
	RoleApp AppRole = ""
	RoleCNI AppRole = "cni"
	RoleCSI AppRole = "csi"
)

// App is APP, CNI or CSI: files of an application.
type App struct {
	at
	Role AppRole
	// AppName is the directory under application/apps/: letters, digits, ".", "_" and "-".
	AppName string
	// Sources are "local://PATH", "PATH", "https://...", "http://..." or "oci://...", unquoted.
	Sources []string

	words []word // Sources with their quotes
}

// AppEnv is APPENV: values for one app, in the order written.
type AppEnv struct {
	at
	AppName string
	Env     []KeyValue

	words []word // Env with its quotes
}

// KeyValue is one K=V, unquoted.
type KeyValue struct{ Key, Value string }

// AppCmds is APPCMDS: the commands that start an app, each one for "sh -c".
type AppCmds struct {
	at
	AppName string
	Cmds    []string
}

// Launch is LAUNCH: apps to start, in order.
type Launch struct {
	at
	Apps []string
}

// Cmds is CMDS, or CMD in either form: commands for the first control plane, in order.
type Cmds struct {
	at
	Cmds []string
}

// KubeVersion is KUBEVERSION: a range of versions that Masterminds/semver accepts.
type KubeVersion struct {
	at
	Range string

	word word // Range with its quotes
}

// Images is IMAGES: container images to embed, a file that lists them, or one to leave out.
type Images struct {
	at
	Refs   []string // as written
	List   string   // --list=FILE, relative to the build context
	Ignore bool     // --ignore: leave Refs out

	words []word // Refs with their quotes
	list  word   // List with its quotes
}

// Vars is what variables in a Kubefile are resolved with.
type Vars struct {
	// BuildArgs are the values given on the command line.
	BuildArgs map[string]string
	// Platform is the target, such as "linux/arm64/v8"; it gives TARGETPLATFORM, TARGETOS, TARGETARCH,
	// TARGETVARIANT, and ARCH, sealer's name for TARGETARCH.
	Platform string
	// BuildPlatform is the machine that builds; it gives BUILDPLATFORM and its parts.
	BuildPlatform string
}
