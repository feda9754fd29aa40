package node

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Marks around our lines in files of others. The first words are recognized, because the installer of earlier builds wrote others
// after them.
const (
	beginMark = "# lifecycle-shim: begin"
	begin     = beginMark + " (lifecyclectl node install made this, and lifecyclectl node uninstall removes it)"
	end       = "# lifecycle-shim: end"
)

// dropinMark begins our drop-ins, oldDropinMark those of the installer of earlier builds.
const (
	dropinMark    = "# lifecycle-shim: made by lifecyclectl node install, removed by lifecyclectl node uninstall"
	oldDropinMark = "# The runtime handler \"lifecycle\" for containerd "
)

// isDropin reports whether the text of a drop-in is ours.
func isDropin(text []byte) bool {
	return bytes.HasPrefix(text, []byte(dropinMark)) || bytes.HasPrefix(text, []byte(oldDropinMark))
}

// wasMark begins a line in our block that keeps a line of the file which the block replaces.
const wasMark = "# was: "

func hasBlock(text []byte) bool {
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte(beginMark)) {
			return true
		}
	}
	return false
}

// withoutBlock returns a text without our block, with the line that the block has replaced. It fails if a block does not end.
func withoutBlock(text []byte) ([]byte, error) {
	var out []byte
	inside := false
	for line := range bytes.Lines(text) {
		switch {
		case bytes.HasPrefix(line, []byte(beginMark)):
			inside = true
		case inside && string(bytes.TrimRight(line, "\r\n")) == end:
			inside = false
		case inside && bytes.HasPrefix(line, []byte(wasMark)):
			out = append(out, line[len(wasMark):]...)
		case !inside:
			out = append(out, line...)
		}
	}
	if inside {
		return nil, fmt.Errorf("the line %q has no line %q after it", begin, end)
	}
	return out, nil
}

// block puts our marks around lines.
func block(lines string) string {
	return begin + "\n" + strings.TrimRight(lines, "\n") + "\n" + end + "\n"
}

// appended returns a text with our block at its end.
func appended(text []byte, lines string) []byte {
	out := bytes.Clone(text)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return append(out, block(lines)...)
}

// prepended returns a text with our block before it: keys of the top level come before the first table.
func prepended(text []byte, lines string) []byte { return append([]byte(block(lines)), text...) }

// noImports is a line with an empty list of imports, as in the default configuration of containerd 1.6 to 2.1.
var noImports = regexp.MustCompile(`(?m)^[ \t]*imports[ \t]*=[ \t]*\[[ \t]*\][ \t]*(#.*)?\r?\n`)

// insteadOf returns a text with our block in place of the first line that matches, and false if no line of the top level does.
func insteadOf(text []byte, line *regexp.Regexp, lines string) ([]byte, bool) {
	at := line.FindIndex(text)
	table := firstTable.FindIndex(text)
	if at == nil || table != nil && table[0] < at[0] {
		return nil, false
	}
	replaced := block(lines + wasMark + string(text[at[0]:at[1]]))
	return slices.Concat(text[:at[0]], []byte(replaced), text[at[1]:]), true
}

// firstTable is where the top level of a configuration ends.
var firstTable = regexp.MustCompile(`(?m)^[ \t]*\[`)

// parsed is the part of containerd's configuration that decides where the handler goes.
type parsed struct {
	// version is 1 if the file does not say.
	version int
	// imports is nil if the file does not have the key.
	imports  []string
	disabled []string
	// runtimes are the types of the handlers by name.
	runtimes       map[string]string
	defaultRuntime string
}

// parse reads a configuration of any version.
func parse(text []byte) (parsed, error) {
	var config struct {
		Version  *int           `toml:"version"`
		Imports  []string       `toml:"imports"`
		Disabled []string       `toml:"disabled_plugins"`
		Plugins  map[string]any `toml:"plugins"`
	}
	if err := toml.Unmarshal(text, &config); err != nil {
		return parsed{}, err
	}
	p := parsed{version: 1, imports: config.Imports, disabled: config.Disabled, runtimes: map[string]string{}, defaultRuntime: "runc"}
	if config.Version != nil {
		p.version = *config.Version
	}
	for _, section := range criSections {
		containerd := tableOf(tableOf(config.Plugins[section])["containerd"])
		if name, ok := containerd["default_runtime_name"].(string); ok && name != "" {
			p.defaultRuntime = name
		}
		for name, value := range tableOf(containerd["runtimes"]) {
			p.runtimes[name], _ = tableOf(value)["runtime_type"].(string)
		}
	}
	return p, nil
}

// The tables of CRI's runtimes in configurations of version 1, 2, and 3 and newer.
const (
	criOldest = "cri"
	criOld    = "io.containerd.grpc.v1.cri"
	criNew    = "io.containerd.cri.v1.runtime"
)

var criSections = []string{criOldest, criOld, criNew}

func tableOf(value any) map[string]any {
	table, _ := value.(map[string]any)
	return table
}

func (p parsed) disablesCRI() bool {
	return slices.ContainsFunc(p.disabled, func(plugin string) bool { return slices.Contains(criSections, plugin) })
}

// importsFile reports whether a file is imported. dir is the directory of the configuration: imports may be relative to it.
func (p parsed) importsFile(dir, file string) bool {
	return slices.ContainsFunc(p.imports, func(pattern string) bool {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(dir, pattern)
		}
		matched, err := filepath.Match(filepath.Clean(pattern), file)
		return err == nil && matched
	})
}
