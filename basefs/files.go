package basefs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"
)

// programs checks that what stands in a directory of programs can run on the hosts.
func (c *checker) programs(dir string) {
	want, known := machineOf(c.md.Arch)
	c.each(dir, func(name string, info fs.FileInfo, head []byte) {
		machine, isELF := elfMachine(head)
		switch {
		case isELF && known && machine != want:
			c.err(name, fmt.Sprintf("a program for %s, and %s says %s", machineName(machine), MetadataFile, c.md.Arch), "replace it by the one for "+c.md.Arch)
		case isELF:
		case bytes.HasPrefix(head, []byte("#!")):
			c.shebang(name, head)
		case len(head) == 0:
			c.err(name, "an empty file", "put the program there")
			return
		default:
			c.warn(name, "neither a Linux program nor a script", "move it to another directory")
			return
		}
		if info.Mode()&0o111 == 0 {
			c.warn(name, "not executable; keg installs it as 0755, other tools may not", "chmod 0755, or COPY --chmod=0755")
		}
	})
}

// scripts checks the hooks.
func (c *checker) scripts() {
	c.each("scripts", func(name string, info fs.FileInfo, head []byte) {
		if strings.HasSuffix(name, templateSuffix) || !strings.HasSuffix(name, ".sh") && strings.Contains(name[len("scripts/"):], ".") {
			return // not a script, or not yet
		}
		switch {
		case bytes.HasPrefix(head, []byte("\xEF\xBB\xBF")):
			c.err(name, "begins with a byte order mark, which no shell understands", "save it without one")
		case bytes.HasPrefix(head, []byte("#!")):
			c.shebang(name, head)
			if info.Mode()&0o111 == 0 {
				c.warn(name, "not executable: it is run by /bin/sh, whatever its first line says", "chmod 0755, or COPY --chmod=0755")
			}
		default:
			if _, isELF := elfMachine(head); !isELF {
				c.warn(name, "no #! in its first line: it is run by /bin/sh", "begin it with #!/bin/sh or #!/bin/bash")
			}
		}
	})
}

// shebang finds first lines that the kernel takes for the name of a program that is not there.
func (c *checker) shebang(name string, head []byte) {
	first, _, _ := bytes.Cut(head, []byte("\n"))
	interpreter := strings.TrimSpace(strings.TrimPrefix(string(first), "#!"))
	switch {
	case bytes.HasSuffix(first, []byte("\r")):
		c.err(name, "its lines end in CR LF: no host can run it", "save it with Unix line ends")
	case !strings.HasPrefix(interpreter, "/"):
		c.err(name, fmt.Sprintf("%q names no program", first), "write an absolute path, such as #!/bin/sh")
	}
}

// archives checks that image archives are archives.
func (c *checker) archives() {
	check := func(name string, _ fs.FileInfo, head []byte) {
		switch {
		case !IsImageArchive(name):
			c.warn(name, "not an image archive: it stays in the image as a file", "archives end in "+strings.Join(archiveEnds, ", "))
		case isArchive(head):
		case len(head) == 0:
			c.err(name, "an empty file", "make the archive again, such as by docker save")
		default:
			c.err(name, "not a tar archive, plain or compressed by gzip, zstd, bzip2 or xz", "make the archive again, such as by docker save")
		}
	}
	c.each("images", check)
	if info, err := fs.Stat(c.tree, "registry.tar.gz"); err == nil && info.Mode().IsRegular() {
		if head, err := c.head("registry.tar.gz"); err != nil {
			c.err("registry.tar.gz", err.Error(), "make the file readable")
		} else {
			check("registry.tar.gz", info, head)
		}
	}
	if info, err := fs.Stat(c.tree, "registry"); err == nil && info.IsDir() {
		if _, err := fs.Stat(c.tree, RegistryTree+"/registry/v2"); err != nil {
			c.warn("registry", "not the storage of a registry: there is no docker/registry/v2 in it", "")
		}
	}
}

// isArchive knows tar and what compresses it by their first bytes.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00", "BZh"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	// The frame that zstd readers skip, where zstd:chunked begins.
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18 {
		return true
	}
	return len(head) == 512 && string(head[257:262]) == "ustar"
}

// machines are ELF's numbers of Go's architectures that Kubernetes knows.
var machines = map[string]uint16{
	"386": 3, "ppc64le": 21, "s390x": 22, "arm": 40, "amd64": 62, "arm64": 183, "riscv64": 243, "loong64": 258,
}

// machineOf is the number of an architecture.
func machineOf(arch string) (uint16, bool) {
	m, ok := machines[GOARCH(arch)]
	return m, ok
}

func machineName(machine uint16) string {
	for name, m := range machines {
		if m == machine {
			return name
		}
	}
	return fmt.Sprintf("ELF machine %d", machine)
}

// elfMachine reads e_machine of an ELF header.
func elfMachine(head []byte) (uint16, bool) {
	if len(head) < 20 || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return 0, false
	}
	if head[5] == 2 { // big endian
		return binary.BigEndian.Uint16(head[18:]), true
	}
	return binary.LittleEndian.Uint16(head[18:]), true
}
