package node

import (
	"fmt"
	"strings"
)

// Names of the product. ourType is the shim's runtime type, runcType the one whose shim a runtime_path replaces.
const (
	handlerName = "lifecycle"
	ourType     = "io.containerd.lifecycle.v2"
	runcType    = "io.containerd.runc.v2"
	shimName    = "containerd-shim-lifecycle-v2"
	hostName    = "lifecycle-hookexec"
	ctlName     = "lifecyclectl"
)

// programs in the order in which they are installed: the host first, because a shim may start in between.
var programs = []string{hostName, shimName, ctlName}

// Annotations that containerd passes to the shim.
var (
	podAnnotations       = []string{"lifecycle-shim.io/*", "*.lifecycle-shim.io/*"}
	containerAnnotations = []string{"io.kubernetes.*"}
)

// Handler is the runtime handler in containerd's configuration. deploy/containerd has the same as examples.
type Handler struct {
	// Type is ourType or runcType, Path the path of the shim or empty.
	Type, Path string
	// Driver is the cgroup driver in its options, or empty if it has none.
	Driver string
}

// Cgroup drivers.
const (
	systemd  = "systemd"
	cgroupfs = "cgroupfs"
)

// tables returns the handler's tables for a configuration of that version.
func (h Handler) tables(version int) string {
	var b strings.Builder
	table := runtimeTable(version, handlerName)
	fmt.Fprintf(&b, "[%s]\n  runtime_type = '%s'\n", table, h.Type)
	if h.Path != "" {
		fmt.Fprintf(&b, "  runtime_path = '%s'\n", h.Path)
	}
	fmt.Fprintf(&b, "  pod_annotations = %s\n  container_annotations = %s\n", quoted(podAnnotations), quoted(containerAnnotations))
	if h.Driver != "" {
		fmt.Fprintf(&b, "\n[%s.options]\n  SystemdCgroup = %t\n", table, h.Driver == systemd)
	}
	return b.String()
}

// dropin returns a file of its own for a configuration of that version.
func (h Handler) dropin(version int) []byte {
	return fmt.Appendf(nil, "%s\nversion = %d\n\n%s", dropinMark, version, h.tables(version))
}

// runcTable returns the table of runc, which containerd 1.x forgets once another runtime is named.
func runcTable(version int) string {
	return fmt.Sprintf("\n[%s]\n  runtime_type = '%s'\n", runtimeTable(version, "runc"), runcType)
}

func runtimeTable(version int, name string) string {
	section := criOld
	if version >= 3 {
		section = criNew
	}
	return "plugins.'" + section + "'.containerd.runtimes." + name
}

func quoted(words []string) string { return "['" + strings.Join(words, "', '") + "']" }
