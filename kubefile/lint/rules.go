package lint

import (
	"cmp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Rule is one thing that Lint looks for.
type Rule struct {
	// Name is what # check=skip= and the comment above an instruction call it.
	Name     string
	Severity Severity
	// Description says what it finds, Cure what to do about it.
	Description, Cure string
	// URL is a page about it.
	URL string
	// BuildKit says that it is one of BuildKit's.
	BuildKit bool
	// Experimental rules run only if # check=experimental= names them.
	Experimental bool
	// Fixable says that Fix mends what it finds, where that is safe.
	Fixable bool
}

// RuleName implements linter.LinterRuleI.
func (r *Rule) RuleName() string { return r.Name }

// Run implements linter.LinterRuleI.
func (r *Rule) Run(warn linter.LintWarnFunc, where []parser.Range, text ...string) {
	warn(r.Name, r.Description, r.URL, strings.Join(text, " "), where)
}

// IsDeprecated implements linter.LinterRuleI.
func (r *Rule) IsDeprecated() bool { return false }

// IsExperimental implements linter.LinterRuleI.
func (r *Rule) IsExperimental() bool { return r.Experimental }

// page is where docs/lint.md is read.
const page = "https://github.com/clusterimage/keg/blob/main/docs/lint.md#"

func own(name string, s Severity, description, cure string) Rule {
	return Rule{Name: name, Severity: s, Description: description, Cure: cure, URL: page + strings.ToLower(name)}
}

// keg's own rules.
var (
	invalidKubefile = own("InvalidKubefile", Error,
		"The Kubefile cannot be built",
		"correct it; keg build says the same")
	unpinnedBase = own("UnpinnedBase", Warning,
		"FROM names an image by a tag, and a tag may be moved",
		"write the digest behind the name: IMAGE:TAG@sha256:..., or keep Kubefile.lock (keg lint --fix=pin writes it into FROM)")
	unverifiedDownload = own("UnverifiedDownload", Warning,
		"What ADD or APP downloads is taken whatever it is",
		"ADD --checksum=sha256:HEX URL, ADD GIT#COMMIT, APP NAME URL#sha256=HEX")
	secretInLayer = own("SecretInLayer", Error,
		"COPY, ADD or APP takes a file with a private key or a login into a layer, where everybody who has the image can read it",
		"leave it out in .dockerignore; give it to a command by RUN --mount=type=secret, to a cluster when it runs")
	secretInValue = own("SecretInValue", Warning,
		"A value in the Kubefile is, or is meant to be, a secret: the image shows it to everybody who has it",
		"give it to a command by RUN --mount=type=secret, to a cluster by keg run --env")
	networkInRun = own("NetworkInRun", Info,
		"A RUN fetches from the network: two builds need not give the same",
		"ADD --checksum the file and RUN --network=none, or have it in the build context")
	appNotLaunched = own("AppNotLaunched", Warning,
		"An APP is packed and never started: neither LAUNCH nor CMDS names it",
		"name it in LAUNCH; CNI and CSI start by themselves")
	imageNotLocked = own("ImageNotLocked", Warning,
		"Kubefile.lock does not hold an image that the Kubefile names",
		"write its digest behind the name; keg lint --fix=pin asks the registry")
	missingArchitecture = own("MissingArchitecture", Warning,
		"The build context has files for one architecture where the Kubefile or --platform wants several",
		"add the files for the other architecture, or build for those that are there: --platform")
)

func buildkit[F any](r *linter.LinterRule[F], cure string, fixable bool) Rule {
	return Rule{
		Name: r.Name, Severity: Warning, Description: r.Description, Cure: cure, URL: r.URL,
		BuildKit: true, Experimental: r.Experimental, Fixable: fixable,
	}
}

// BuildKit's rules that are decided here, because the answer depends on cluster instructions or on the
// build context.
var (
	consistentInstructionCasing = buildkit(&linter.RuleConsistentInstructionCasing, "keg fmt writes all names in upper case", true)
	noEmptyContinuation         = buildkit(&linter.RuleNoEmptyContinuation, "remove the empty lines inside of the instruction", true)
	copyIgnoredFile             = buildkit(&linter.RuleCopyIgnoredFile, "take the file out of the ignore file, or out of the instruction", false)
)

// undefinedVar is one of BuildKit's that keg reads differently: platform variables need no ARG.
const undefinedVar = "UndefinedVar"

var all = sorted([]Rule{
	invalidKubefile, unpinnedBase, unverifiedDownload, secretInLayer, secretInValue, networkInRun, appNotLaunched,
	imageNotLocked, missingArchitecture,
	consistentInstructionCasing, noEmptyContinuation, copyIgnoredFile,
	buildkit(&linter.RuleStageNameCasing, "write the name of the stage in lower case", true),
	buildkit(&linter.RuleFromAsCasing, "write AS as FROM is written", true),
	buildkit(&linter.RuleDuplicateStageName, "give each stage a name of its own", false),
	buildkit(&linter.RuleReservedStageName, "choose another name", false),
	buildkit(&linter.RuleJSONArgsRecommended, `write ENTRYPOINT ["PROGRAM", "WORD"]`, false),
	buildkit(&linter.RuleMaintainerDeprecated, `write LABEL org.opencontainers.image.authors="..."`, true),
	buildkit(&linter.RuleUndefinedArgInFrom, "declare it before the first FROM: ARG NAME", false),
	buildkit(&linter.RuleWorkdirRelativePath, "write an absolute path", false),
	buildkit(&linter.RuleUndefinedVar, "declare it with ARG or ENV", false),
	buildkit(&linter.RuleMultipleInstructionsDisallowed, "leave the last one", false),
	buildkit(&linter.RuleLegacyKeyValueFormat, "write NAME=VALUE", true),
	buildkit(&linter.RuleInvalidBaseImagePlatform, "name an image for the platform", false),
	buildkit(&linter.RuleRedundantTargetPlatform, "leave --platform out", false),
	buildkit(&linter.RuleSecretsUsedInArgOrEnv, "use RUN --mount=type=secret", false),
	buildkit(&linter.RuleInvalidDefaultArgInFrom, "give the ARG a default", false),
	buildkit(&linter.RuleFromPlatformFlagConstDisallowed, "use $BUILDPLATFORM or $TARGETPLATFORM, or leave it out", false),
	buildkit(&linter.RuleInvalidDefinitionDescription, "leave an empty line between the comment and the instruction", false),
	buildkit(&linter.RuleExposeProtoCasing, "write the protocol in lower case", true),
	buildkit(&linter.RuleExposeInvalidFormat, "write the port of the container only", false),
})

func sorted(list []Rule) []Rule {
	slices.SortFunc(list, func(a, b Rule) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// Rules are all rules by name.
func Rules() []Rule { return slices.Clone(all) }

// ruleOf is the rule of a name, also of one that is not in the list.
func ruleOf(name, url string) *Rule {
	if i, ok := slices.BinarySearchFunc(all, name, func(r Rule, name string) int { return cmp.Compare(r.Name, name) }); ok {
		return &all[i]
	}
	return &Rule{Name: name, Severity: Warning, URL: url, BuildKit: true}
}
