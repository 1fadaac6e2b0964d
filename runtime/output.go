package runtime

import (
	"bytes"
	"regexp"
	"sync"

	"github.com/clusterimage/keg/internal/progress"
)

// stepOutput turns one step, and what its commands write, into progress events.
type stepOutput struct {
	emit   progress.Func
	id     string
	name   string
	parent string

	mu   sync.Mutex
	rest []byte // the beginning of a line
}

func (c *Cluster) stepOutput(phase string, s Step) *stepOutput {
	o := &stepOutput{emit: c.Options.Progress, id: phase, name: phase}
	if s.Text != "" {
		o.id, o.parent = phase+"/"+s.Host+"/"+s.Text, phase
		o.name = s.Text
		if s.Host != "" {
			o.name = s.Host + ": " + s.Text
		}
	}
	return o
}

func (o *stepOutput) begin() { o.send(progress.Event{}) }

// amount reports bytes sent so far.
func (o *stepOutput) amount(done, total int64) {
	o.send(progress.Event{Done: done, Total: total})
}

func (o *stepOutput) send(e progress.Event) {
	e.ID, e.Name, e.Parent = o.id, o.name, o.parent
	o.emit.Emit(e)
}

// Write passes whole lines on.
func (o *stepOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rest = append(o.rest, p...)
	if i := bytes.LastIndexByte(o.rest, '\n'); i >= 0 {
		o.log(o.rest[:i+1])
		o.rest = append([]byte(nil), o.rest[i+1:]...)
	}
	return len(p), nil
}

func (o *stepOutput) log(lines []byte) {
	o.send(progress.Event{Log: []byte(redact(string(lines)))})
}

func (o *stepOutput) end(err error, skipped bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rest) > 0 {
		o.log(append(o.rest, '\n'))
		o.rest = nil
	}
	o.send(progress.Event{Err: err, End: true, Skipped: skipped})
}

// secrets are what no log, error or journal may hold, whoever wrote it: join tokens of k3s and
// kubeadm, certificate keys, compressed tokens of k0s, private keys, keys and tokens in kubeconfigs,
// registry credentials.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`K10[0-9a-f]{64}::\S+`),
	regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`),
	regexp.MustCompile(`(?i)certificate-?key["':= ]+[0-9a-f]{64}`),
	regexp.MustCompile(`\bH4sI[A-Za-z0-9+/=]{20,}`),
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`),
	regexp.MustCompile(`(?:client-key-data|token|authPass|password): *\S+`),
	regexp.MustCompile(`"auth": *"[^"]*"`),
}

// redact takes secrets out of a text for people.
func redact(s string) string {
	for _, re := range secrets {
		s = re.ReplaceAllString(s, "<withheld>")
	}
	return s
}

// redactedError keeps the chain of an error and hides what its text holds.
type redactedError struct {
	error
	text string
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.error }

func redactError(err error) error {
	if text := redact(err.Error()); text != err.Error() {
		return &redactedError{error: err, text: text}
	}
	return err
}
