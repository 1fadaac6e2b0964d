package registrytest

import (
	"os/exec"
	"syscall"
)

// dieWithParent ends the registry even where the test's process is killed and cleans nothing up.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
