package fleet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// next is the version of the other build, in bin/next: the same programs, which print this version.
const next = "0.1.0-next"

func (b *bench) pushNext() {
	b.Helper()
	img, err := withPrograms(b.product(), filepath.Join(binDir(), "next"))
	if err != nil {
		b.Fatal(err)
	}
	if err := b.Registry.Push(repository+":"+next, img); err != nil {
		b.Fatal(err)
	}
}

// helm upgrade to another build keeps every running container, and each new pod gets the new build; helm rollback likewise.
func TestHelmUpgradeKeepsContainers(t *testing.T) {
	b := on(t)
	before := b.allFiles()
	first := b.version()
	b.install("4", onAnyNode...)
	b.pushNext()
	kept := b.runEverywhere("first", first)

	b.mustHelm("4", append([]string{"upgrade", release, chart, "--set", "image.tag=" + next}, onAnyNode...)...)
	b.allCurrent(next)
	b.wantKept(kept)
	kept = append(kept, b.runEverywhere("second", next)...)

	b.mustHelm("4", "rollback", release, "1")
	b.allCurrent(first)
	b.wantKept(kept)
	kept = append(kept, b.runEverywhere("third", first)...)
	b.wantKept(kept)

	for _, r := range kept {
		b.kubectl("delete", "pod", r.pod, "--wait=false")
	}
	b.uninstall("4")
	b.wantFiles(before)
}

// running is a pod with the processes that must stay.
type running struct {
	pod       string
	processes []string // the shim and the container's, each with its start time
	restarts  int32
}

// runEverywhere runs a pod of the class on each node, and fails if its shim is not of that version.
func (b *bench) runEverywhere(name, version string) (all []running) {
	b.Helper()
	for _, n := range b.Nodes {
		b.apply(example(name+"-"+n.Name, n.Name))
	}
	for _, n := range b.Nodes {
		pod := name + "-" + n.Name
		b.ready(pod)
		r := b.look(n, pod)
		shim, _, _ := strings.Cut(r.processes[0], " ")
		out, err := exec.CommandContext(b.Context(), "/proc/"+shim+"/exe", "-v").CombinedOutput()
		if err != nil || !slices.Contains(strings.Fields(string(out)), version) {
			b.Errorf("pod %s has a shim that says %q (%v), not version %s", pod, out, err, version)
		}
		all = append(all, r)
	}
	return all
}

// look finds a pod's shim and its descendants. The first is the shim.
func (b *bench) look(n *Node, name string) running {
	b.Helper()
	ids, err := n.Exec(b.Context(), "ctr", "-n", "k8s.io", "containers", "ls", "-q", fmt.Sprintf(`labels."io.kubernetes.pod.name"==%s`, name))
	if err != nil {
		b.Fatal(err)
	}
	pid, err := n.PID()
	if err != nil {
		b.Fatal(err)
	}
	children, err := childrenOf(pid)
	if err != nil {
		b.Fatal(err)
	}
	sandboxes := strings.Fields(ids)
	for _, child := range children {
		i := slices.Index(child.Cmdline, "-id")
		if !child.Shim() || i < 0 || i+1 >= len(child.Cmdline) || !slices.Contains(sandboxes, child.Cmdline[i+1]) {
			continue
		}
		r := running{pod: name, restarts: restarts(b.pod(name)), processes: []string{identity(child.PID)}}
		below, err := childrenOf(child.PID)
		if err != nil {
			b.Fatal(err)
		}
		for _, p := range below {
			r.processes = append(r.processes, identity(p.PID))
		}
		return r
	}
	b.Fatalf("pod %s has no shim on %s", name, n.Name)
	return running{}
}

func childrenOf(pid int) ([]harness.Process, error) {
	p, err := harness.ProcessByID(pid)
	if err != nil {
		return nil, err
	}
	return p.Children()
}

// identity is a process's number and start time: a later process may get the number.
func identity(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return fmt.Sprintf("%d %v", pid, err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return fmt.Sprintf("%d %s", pid, fields[19]) // the 22nd of proc(5)
}

func restarts(pod *core.Pod) (sum int32) {
	for _, status := range pod.Status.ContainerStatuses {
		sum += status.RestartCount
	}
	return sum
}

// wantKept fails if a pod's processes are not the same as before.
func (b *bench) wantKept(all []running) {
	b.Helper()
	for _, was := range all {
		pod := b.pod(was.pod)
		i := slices.IndexFunc(b.Nodes, func(n *Node) bool { return n.Name == pod.Spec.NodeName })
		is := b.look(b.Nodes[i], was.pod)
		if !slices.Equal(was.processes, is.processes) || was.restarts != is.restarts {
			b.Errorf("pod %s was not kept: its processes were %v, and are %v; restarts %d, %d", was.pod, was.processes, is.processes, was.restarts, is.restarts)
		}
		b.ready(was.pod)
	}
}

// allCurrent waits until the installers of that version have made every node ready.
func (b *bench) allCurrent(version string) {
	b.Helper()
	b.poll("all nodes to have version "+version, func() bool {
		var list core.PodList
		if err := b.Get(b.Context(), "/api/v1/namespaces/"+namespace+"/pods?labelSelector=app.kubernetes.io/component%3Dinstaller", &list); err != nil {
			return false
		}
		ready := 0
		for _, pod := range list.Items {
			for _, status := range pod.Status.ContainerStatuses {
				if status.Ready && strings.HasSuffix(pod.Spec.Containers[0].Image, ":"+version) && pod.DeletionTimestamp == nil {
					ready++
				}
			}
		}
		return ready == len(b.Nodes) && len(list.Items) == ready
	})
	b.allReady()
}
