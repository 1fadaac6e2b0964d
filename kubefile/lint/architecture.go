package lint

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/kubefile"
)

// elfHeader is how much of a file says what it is a program for.
const elfHeader = 20

// machines are the architectures that a rootfs can be for.
var machines = map[elf.Machine]string{
	elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_386: "386",
	elf.EM_PPC64: "ppc64le", elf.EM_S390: "s390x", elf.EM_RISCV: "riscv64",
}

// program is the architecture that a file is a program for, or "".
func program(text []byte) string {
	if len(text) < elfHeader || !bytes.HasPrefix(text, []byte(elf.ELFMAG)) {
		return ""
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(text[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	return machines[elf.Machine(order.Uint16(text[18:]))]
}

// strange is the architecture of a program that the image's hosts cannot run, or "". Only where --platform
// was given is it known what the hosts are.
func (p *stageRun) strange(arch string) string {
	if len(p.o.Platforms) == 0 || !p.last() {
		return ""
	}
	if arch == "" || arch == architecture(p.platform) || arch == "386" && architecture(p.platform) == "amd64" {
		return ""
	}
	return arch
}

// last says whether a stage is the one that becomes the image.
func (p *stageRun) last() bool {
	return p.written == p.run.file.Stages[len(p.run.file.Stages)-1]
}

func architecture(platform string) string {
	parts := strings.Split(platform, "/")
	if len(parts) < 2 {
		return platform
	}
	return parts[1]
}

// perArch is a word that is another one for each architecture.
var perArch = regexp.MustCompile(`\$\{?(TARGETARCH|ARCH|TARGETPLATFORM)\b`)

// otherPlatforms finds sources named by their architecture that are there for some and not for others.
func (p *stageRun) otherPlatforms(what string, in, written kubefile.Instruction) error {
	raw := localSources(written)
	platforms := p.o.Platforms
	if len(platforms) == 0 {
		platforms = []string{"linux/amd64", "linux/arm64"}
	}
	if platforms[0] != p.platform && len(p.o.Platforms) > 0 {
		return nil // said once
	}
	for _, src := range raw {
		if !perArch.MatchString(src) {
			continue
		}
		var has, lacks []string
		for _, platform := range platforms {
			name, ok := p.expand(src, platform)
			if !ok {
				return nil
			}
			found, err := p.o.Context.find(p.ctx, name)
			if err != nil {
				return err
			}
			if len(found) > 0 {
				has = append(has, architecture(platform))
			} else {
				lacks = append(lacks, architecture(platform))
			}
		}
		if len(lacks) > 0 && (len(has) > 0 || len(p.o.Platforms) > 1) {
			if len(has) == 0 {
				has = []string{"none"}
			}
			p.say(&missingArchitecture, in, "%s %s: the build context has it for %s, not for %s",
				what, src, strings.Join(has, ", "), strings.Join(lacks, ", "))
		}
	}
	return nil
}

// localSources are the sources of the context as they were written.
func localSources(in kubefile.Instruction) []string {
	switch in := in.(type) {
	case *kubefile.App:
		var list []string
		for _, s := range in.Sources {
			if s, local := strings.CutPrefix(s, "local://"); local || !strings.Contains(s, "://") {
				list = append(list, s)
			}
		}
		return list
	case *kubefile.Docker:
		switch c := in.Command.(type) {
		case *instructions.CopyCommand:
			return c.SourcePaths
		case *instructions.AddCommand:
			return slices.DeleteFunc(slices.Clone(c.SourcePaths), remote)
		}
	}
	return nil
}

// expand replaces the variables of the platform in a source; one that holds others is left to the build.
func (p *stageRun) expand(src, platform string) (string, bool) {
	parts := append(strings.Split(platform, "/"), "", "", "")
	replaced := src
	for name, value := range map[string]string{
		"TARGETARCH": parts[1], "ARCH": parts[1], "TARGETOS": parts[0], "TARGETVARIANT": parts[2], "TARGETPLATFORM": platform,
	} {
		replaced = strings.ReplaceAll(replaced, "${"+name+"}", value)
		replaced = regexp.MustCompile(`\$`+name+`\b`).ReplaceAllString(replaced, value)
	}
	return replaced, !strings.Contains(replaced, "$")
}
