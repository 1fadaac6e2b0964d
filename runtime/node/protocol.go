// Package node is what keg and keg-node say to each other. keg starts `keg-node VERB` on a host over a
// remote.Runner, writes one JSON request (or a tar stream) to its stdin and reads one JSON answer from
// its stdout; stderr is for people. Package runtime/node/host implements the verbs, package
// runtime/node/client calls them. Nothing secret ever stands in arguments.
//
// keg-node ends with code 0, or with an Error as its answer and code 1, or, where the lock is held by
// somebody else, CodeBusy. A verb it does not know is code 2. Requests are read strictly: both sides
// are always of the same build, since keg sends the program before it uses it.
//
// The client is a package of its own because keg-node must not link the SSH library behind remote.
package node

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Paths on a host. Everything below Dir is keg's own and goes with `keg reset`.
const (
	Dir      = "/var/lib/keg-node"       // 0700
	Binary   = Dir + "/keg-node"         // the program itself
	StoreDir = Dir + "/store"            // blobs, an OCI layout
	Rootfs   = Dir + "/rootfs"           // the unpacked basefs, templates rendered
	State    = Dir + "/state.json"       // State, 0600
	Apps     = Dir + "/apps"             // unpacked app images that came to the cluster later
	EnvFile  = Dir + "/env.json"         // RenderRequest.Env of the last render, 0600: it may hold secrets
	Recorder = Dir + "/recorder"         // what was there before keg changed it
	Begun    = Dir + "/init-begun"       // is there once scripts have begun to prepare the host (hook "init")
	LockFile = "/run/lock/keg-node.lock" // held by `keg-node lock` while keg works on the host

	// RegistryConfigFile is the RegistryConfig of `keg-node registry`.
	RegistryConfigFile = Dir + "/registry/config.json"
)

// RootfsDir is where the rootfs of an app image lies on a host, by the digest of its index; that of the
// cluster image itself, which is "", is Rootfs.
func RootfsDir(app digest.Digest) string {
	if app == "" {
		return Rootfs
	}
	return Apps + "/" + app.Encoded()
}

// Verb is the first argument of keg-node.
type Verb string

// The verbs, with what stands on stdin and on stdout.
const (
	VerbFacts    Verb = "facts"     // FactsRequest, Facts
	VerbLock     Verb = "lock"      // LockRequest in one line, then an empty line each LockBeat; Locked in one line
	VerbState    Verb = "state"     // nothing, HostState or null
	VerbSetState Verb = "set-state" // HostState, Nothing
	VerbMissing  Verb = "missing"   // MissingRequest, MissingResponse
	VerbReceive  Verb = "receive"   // tar stream, ReceiveResponse
	VerbUnpack   Verb = "unpack"    // UnpackRequest, UnpackResponse
	VerbRender   Verb = "render"    // RenderRequest, Nothing
	VerbInstall  Verb = "install"   // InstallRequest, InstallResponse
	VerbPut      Verb = "put"       // tar stream, InstallResponse
	VerbClaim    Verb = "claim"     // ClaimRequest, Nothing
	VerbBlock    Verb = "block"     // BlockRequest, InstallResponse
	VerbSysctl   Verb = "sysctl"    // SysctlRequest, InstallResponse
	VerbUnits    Verb = "units"     // UnitRequest, Nothing
	VerbUnit     Verb = "unit"      // UnitQuery, UnitStatus
	VerbHook     Verb = "hook"      // HookRequest, HookResponse
	VerbRegistry Verb = "registry"  // serves until SIGTERM; reads RegistryConfigFile
	VerbBalance  Verb = "balance"   // serves until SIGTERM; reads BalancerConfigFile
	VerbVIP      Verb = "vip"       // serves until SIGTERM; reads VIPConfigFile
	VerbVIPDrop  Verb = "vip-drop"  // nothing, Nothing: takes away an address that a killed vip left
	VerbPrune    Verb = "prune"     // PruneRequest, PruneResponse
	VerbUndo     Verb = "undo"      // nothing, UndoResponse
	VerbResidue  Verb = "residue"   // nothing, UndoResponse
	VerbForget   Verb = "forget"    // nothing, Nothing
)

// Nothing is the answer of verbs that have none.
type Nothing struct{}

// Locked is the line that `keg-node lock` writes once it holds LockFile. It holds it until its stdin
// ends, so that the lock goes with the connection.
const Locked = "LOCKED"

// A machine that lost its network cannot end its connections: its lock goes after LockSilence without
// a word on stdin, which is longer than it takes the other side to notice.
const (
	LockBeat    = 10 * time.Second
	LockSilence = 75 * time.Second
)

// CodeBusy is the exit code of `keg-node lock` where somebody else holds the lock (EX_TEMPFAIL).
const CodeBusy = 75

// LockRequest is the first line on the stdin of `keg-node lock`.
type LockRequest struct {
	// Owner is what others are told while the lock is held, such as "keg run shop:v1 by ann@laptop".
	Owner string `json:"owner"`
	// WaitSeconds is how long to wait for the holder before; 0 does not wait.
	WaitSeconds int `json:"waitSeconds,omitempty"`
}

// Facts is what `keg-node facts` says of a host. It only reads.
type Facts struct {
	Hostname  string   `json:"hostname"`
	MachineID string   `json:"machineID"`
	Arch      string   `json:"arch"` // GOARCH: amd64, arm64
	OS        string   `json:"os"`   // PRETTY_NAME of os-release
	Kernel    string   `json:"kernel"`
	Init      string   `json:"init"`   // systemd, openrc, or ""
	Cgroup    int      `json:"cgroup"` // 1 or 2
	CPUs      int      `json:"cpus"`
	Memory    int64    `json:"memory"`   // bytes
	DiskFree  int64    `json:"diskFree"` // bytes free where Dir is or will be
	Swap      int64    `json:"swap"`     // bytes in use as swap space
	UnixNano  int64    `json:"unixNano"` // the host's clock
	Addresses []string `json:"addresses"`
	// DefaultRoute says whether there is one; without it kubelet cannot choose an address.
	DefaultRoute bool `json:"defaultRoute"`
	// Listening are local TCP ports somebody listens on.
	Listening []int `json:"listening"`
	// Existing are those paths and units of other installations that were found: the ones asked for in
	// FactsRequest.
	Existing []string `json:"existing"`
	// OOMScoreAdj says whether a process may lower its oom_score_adj (it needs CAP_SYS_RESOURCE).
	OOMScoreAdj bool `json:"oomScoreAdj"`
	// State is nil on a host that keg has not touched.
	State *HostState `json:"state,omitempty"`
}

// FactsRequest asks for more than the usual facts.
type FactsRequest struct {
	// Paths are reported in Facts.Existing if they exist (a directory: if it is not empty).
	Paths []string `json:"paths,omitempty"`
}

// HostState is kept on the host in State. It is a hint: facts decide.
type HostState struct {
	Cluster string        `json:"cluster"` // name
	UID     string        `json:"uid"`     // of the cluster, made by the first run
	Role    string        `json:"role"`    // master or worker
	Node    string        `json:"node"`    // Kubernetes node name
	Address string        `json:"address"`
	Image   digest.Digest `json:"image"` // the cluster image's index
	Name    string        `json:"name"`  // the image's name
	Runtime string        `json:"runtime"`
	// Apps are app images that came to the cluster later, by the digest of their index, with the name
	// they had. Control planes serve what they embed.
	Apps map[digest.Digest]string `json:"apps,omitempty"`
	// Done are the steps that ended well on this host, such as "unpack", "init".
	Done []string `json:"done,omitempty"`
}

// MissingRequest asks which of the blobs are not on the host.
type MissingRequest struct {
	Blobs []digest.Digest `json:"blobs"`
}

// MissingResponse lists them in the order asked.
type MissingResponse struct {
	Missing []digest.Digest `json:"missing"`
}

// ReceiveTotal is the PAX record that may stand in a global header at the beginning of the stream for
// `keg-node receive`: how many bytes of blobs follow, so that a full disk is found before they are sent.
const ReceiveTotal = "KEG.total"

// ReceiveResponse is the answer to `keg-node receive`, whose stdin is a tar stream of regular files
// named by digest ("sha256:HEX"). Each is verified while it is written. What arrived whole stays, also
// if the stream breaks: ask for what is missing and send the rest. Counted is what was new.
type ReceiveResponse struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// Blob is a blob for a host to receive.
type Blob struct {
	Digest digest.Digest
	Size   int64
	// Open opens its content, which the host checks.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// File is a small file to put on a host, perhaps a secret one.
type File struct {
	Path string // absolute
	Mode int64  // permission bits
	Data []byte
}

// PruneRequest asks to remove every blob that none of the roots needs.
type PruneRequest struct {
	// Roots are indexes of cluster images and manifests of rootfs images, by media type and digest. What of
	// theirs is not on the host does not matter.
	Roots []ocispec.Descriptor `json:"roots"`
}

// PruneResponse says what was removed.
type PruneResponse struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// UnpackRequest asks to unpack a rootfs image from the host's store into Rootfs. A Rootfs already of
// that manifest is left as it is; another one is replaced as a whole.
type UnpackRequest struct {
	Manifest ocispec.Descriptor `json:"manifest"`
	// App unpacks into RootfsDir of an app image instead.
	App digest.Digest `json:"app,omitempty"`
}

// UnpackResponse says whether Rootfs changed.
type UnpackResponse struct {
	Changed bool `json:"changed"`
}

// RenderRequest asks to render the *.tmpl files of Rootfs. Env is kept in EnvFile.
type RenderRequest struct {
	Env map[string]string `json:"env"`
	// App renders those of RootfsDir of an app image instead, and keeps nothing.
	App digest.Digest `json:"app,omitempty"`
	// Apps are by name of an app, and override Env in application/apps/NAME (basefs.Renderer).
	Apps map[string]map[string]string `json:"apps,omitempty"`
}

// InstallRequest asks to copy files from Rootfs to their places on the host, through the recorder.
type InstallRequest struct {
	Items []InstallItem `json:"items"`
	// OnlyLook changes nothing, and answers what would change.
	OnlyLook bool `json:"onlyLook,omitempty"`
}

// InstallItem is a file, or a directory with all below it.
type InstallItem struct {
	From string `json:"from"` // relative to Rootfs; nothing happens if Optional and it is not there
	To   string `json:"to"`   // absolute
	// Mode of files, such as 0755; 0 keeps what the rootfs has.
	Mode     int64 `json:"mode,omitempty"`
	Optional bool  `json:"optional,omitempty"`
}

// InstallResponse lists the absolute paths that changed.
type InstallResponse struct {
	Changed []string `json:"changed"`
}

// `keg-node put` reads a tar stream of regular files with absolute names and modes, and writes each
// through the recorder, atomically. It answers an InstallResponse. Secrets travel this way. Files below
// Dir are not recorded, since Dir goes as a whole.

// ClaimRequest says which paths and network links the runtime is about to make by itself, so that
// undo removes them. A path that exists and is not keg's already keeps what it holds: undo removes
// only what came after. Directories on the way to a path go too if keg's runtime made them and they are empty.
//
// The first claim on a host also notes what a container runtime leaves in other places, so that undo
// can take that back as well: chains of packet filters named KUBE-* and CNI-*, control groups
// kubepods* with the processes in them, and the network namespaces in /run/netns.
type ClaimRequest struct {
	Paths []string `json:"paths"`
	// Links are network devices; "cali*" stands for all whose name begins so.
	Links []string `json:"links"`
	// Routes are ranges, such as "10.244.0.0/16", that the runtime makes routes into: to the pods of other
	// hosts.
	Routes []string `json:"routes,omitempty"`
	// Users are accounts of the system that the runtime makes where they are missing: those go, and those
	// that are there already stay.
	Users []string `json:"users,omitempty"`
}

// BlockRequest puts Text between two marker lines into a text file such as /etc/hosts, replacing an
// earlier block of the same marker; empty Text takes it out. undo removes the block and nothing else.
type BlockRequest struct {
	Path   string `json:"path"`
	Marker string `json:"marker"` // such as "keg"
	Text   string `json:"text"`
}

// SysctlRequest writes and applies kernel settings and loads modules, remembering the values before.
type SysctlRequest struct {
	Settings map[string]string `json:"settings"` // "net.ipv4.ip_forward": "1"
	Modules  []string          `json:"modules"`  // loaded now and at boot
	// Remember are settings that the runtime is about to change by itself (kubelet sets
	// kernel.panic): undo puts them back. Those the kernel does not have are passed over.
	Remember []string `json:"remember,omitempty"`
}

// UnitRequest enables, starts, restarts systemd units, after a daemon-reload; undo stops and disables
// those that were not active and enabled before, in the opposite order.
type UnitRequest struct {
	Units   []string `json:"units"`
	Restart bool     `json:"restart"` // restart even if running
	// Between, with Restart and one unit, is a command to run while that is stopped. It is started again whatever
	// comes of it, also if keg is gone by then. What the command writes goes to stderr.
	Between []string `json:"between,omitempty"`
	// EnableOnly does not start.
	EnableOnly bool `json:"enableOnly"`
	// NoBlock does not wait until they have started.
	NoBlock bool `json:"noBlock,omitempty"`
	// NoteOnly only writes down how they are, for undo, before the runtime itself makes and enables them.
	NoteOnly bool `json:"noteOnly,omitempty"`
	// Stop stops those that run, and writes nothing down: undo knows what it knew before.
	Stop bool `json:"stop,omitempty"`
	// Kill, with Stop, kills those that cannot be stopped, and goes on whatever happens.
	Kill bool `json:"kill,omitempty"`
	// Disable, with Stop, also keeps them from starting at boot.
	Disable bool `json:"disable,omitempty"`
}

// UnitQuery asks how a unit is, and what it said.
type UnitQuery struct {
	Unit string `json:"unit"`
	// Lines is how many lines to answer with at most, the last ones; 0 is none.
	Lines int `json:"lines,omitempty"`
	// Match is a regular expression (RE2) that those lines match; "" is matched by all.
	Match string `json:"match,omitempty"`
	// SinceStart looks at all that it said since it was started last, and not at the last 300 lines.
	SinceStart bool `json:"sinceStart,omitempty"`
}

// UnitStatus is how a unit is.
type UnitStatus struct {
	// Active is a word of systemd: active, reloading, activating, deactivating, inactive, failed; "unknown" where
	// the host cannot say.
	Active string `json:"active"`
	// Restarts is how often it was started again by itself since somebody started it.
	Restarts int      `json:"restarts"`
	Said     []string `json:"said,omitempty"`
}

// HookRequest runs scripts/NAME.sh (or scripts/NAME) of Rootfs, in Rootfs, if it is there: by itself
// if it is executable and begins with "#!", else by /bin/sh. Plugins of sealer in Rootfs that belong to that
// hook follow (basefs.LegacyHooks). Of a tree made for sealer (basefs.IsLegacy), its own scripts and plugins for that
// hook run instead, in sealer's order. What they write goes to stderr. Their environment is
//
//	HOME=/root LANG=C.UTF-8
//	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
//	KEG_HOOK      the name
//	KEG_ROOTFS    Rootfs
//	ROOTFS        the same, as sealer's scripts know it
//
// and Env, which wins, and with Kept what EnvFile has, which wins over that.
type HookRequest struct {
	Name string            `json:"name"`
	Args []string          `json:"args,omitempty"`
	Env  map[string]string `json:"env"`
	// Kept is for whoever does not have the image and its settings any more, such as a reset.
	Kept bool `json:"kept,omitempty"`
	// Runtime is the cluster's; Master and First say whether the host is a control plane and the one that is asked.
	// They choose among the scripts and plugins of sealer.
	Runtime string `json:"runtime,omitempty"`
	Master  bool   `json:"master,omitempty"`
	First   bool   `json:"first,omitempty"`
}

// HookResponse says whether there was such a script or plugin. One that fails is an error, and the rest does not run.
type HookResponse struct {
	Ran bool `json:"ran"`
}

// UndoResponse is the answer to `keg-node undo`: everything recorded is put back. Residue lists what
// could not be, each with the reason; empty is what reset wants to see.
type UndoResponse struct {
	Restored int      `json:"restored"`
	Residue  []string `json:"residue"`
}

// `keg-node forget` removes Dir with the program itself, and LockFile. It refuses while something
// recorded was not undone.

// RegistryConfig is what `keg-node registry` serves: the embedded images of cluster images in StoreDir.
type RegistryConfig struct {
	// Listen is "ADDRESS:PORT"; an empty address is all of them.
	Listen string `json:"listen"`
	// CertFile and KeyFile are PEM files on the host, the certificate with its chain.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// Indexes are the cluster images, by the digest of their index, the first winning where two embed
	// an image of one name.
	Indexes []digest.Digest `json:"indexes"`
}

// RegistryUnitName is the unit that runs `keg-node registry`.
const RegistryUnitName = "keg-registry.service"

// RegistryUnit is the text of that unit.
const RegistryUnit = `[Unit]
Description=Registry of the cluster's embedded images (keg)
Wants=network-online.target
After=network-online.target
Before=containerd.service kubelet.service

[Service]
Type=notify
ExecStart=` + Binary + ` registry
Restart=always
RestartSec=2
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
`
