package lint

import (
	"encoding/json"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/kubefile"
)

// tokens are texts that are secrets by their form, wherever they stand.
var tokens = []struct {
	what string
	form *regexp.Regexp
}{
	{"a private key", privateKey},
	{"an access key of AWS", regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{"a token of GitHub", regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})`)},
	{"a token of GitLab", regexp.MustCompile(`\bglpat-[A-Za-z0-9_-]{20,}`)},
	{"a token of Slack", regexp.MustCompile(`\bxox[abprs]-[A-Za-z0-9-]{10,}`)},
	{"an age key", regexp.MustCompile(`\bAGE-SECRET-KEY-1[0-9A-Z]{20,}`)},
	{"a URL with a password", regexp.MustCompile(`\b[a-z][a-z0-9+.-]*://[^/\s:@'"]+:[^/\s:@'"$]+@`)},
}

var (
	privateKey = regexp.MustCompile(`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----`)
	// secretKey is a name whose value is a secret, secretNot one that only sounds like it.
	secretKey = regexp.MustCompile(`(?i)(?:^|[_.-])(?:password|passwd|passphrase|secret|token|credentials?|apikey|api[_-]key|private[_-]key)$`)
	clientKey = regexp.MustCompile(`(?m)^\s*-?\s*"?client-key-data"?:\s*"?[A-Za-z0-9+/]`)
	userToken = regexp.MustCompile(`(?m)^\s*"?token"?:\s*"?[A-Za-z0-9._-]{16,}`)
	kubeKind  = regexp.MustCompile(`(?m)^\s*"?kind"?:\s*"?Config\b`)
)

// secretText looks for secrets in a text of the Kubefile. The finding does not repeat them.
func (p *stageRun) secretText(what, text string, in kubefile.Instruction) {
	for _, t := range tokens {
		if t.form.MatchString(text) {
			p.say(&secretInValue, in, "%s holds %s", what, t.what)
		}
	}
}

// secretName looks at the name of a value, which BuildKit does for ENV and ARG.
func (p *stageRun) secretName(what, key, value string, in kubefile.Instruction) {
	if value != "" && secretKey.MatchString(key) {
		p.say(&secretInValue, in, "%s %s is a secret by its name", what, key)
	}
}

// contents looks at files whose text stands in the Kubefile.
func (p *stageRun) contents(what string, list []instructions.SourceContent, in kubefile.Instruction) {
	for _, c := range list {
		if kind := secretFile(c.Path, []byte(c.Data)); kind != "" {
			p.say(&secretInLayer, in, "%s: the text of %s is %s", what, c.Path, kind)
		}
	}
}

// secretFile says what secret a file holds, or "".
func secretFile(name string, text []byte) string {
	switch {
	case privateKey.Match(text):
		return "a private key"
	case kubeKind.Match(text) && (clientKey.Match(text) || userToken.Match(text)):
		return "a kubeconfig with a login"
	}
	base := strings.ToLower(path.Base(name))
	if base == "config.json" || strings.HasSuffix(base, ".dockerconfigjson") || base == ".dockercfg" {
		var c struct {
			Auths map[string]struct {
				Auth          string `json:"auth"`
				Password      string `json:"password"`
				IdentityToken string `json:"identitytoken"`
			} `json:"auths"`
		}
		if json.Unmarshal(text, &c) == nil {
			for _, a := range c.Auths {
				if a.Auth != "" || a.Password != "" || a.IdentityToken != "" {
					return "logins to registries"
				}
			}
		}
	}
	if base == ".netrc" && strings.Contains(string(text), "password") {
		return "a password"
	}
	return ""
}
