package node

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden plans")

// recorded is node.json of a recorded layout: what a node of that distribution has, from its own sources or pages.
type recorded struct {
	Source, Version, Program, Config, Cgroup string
	Path                                     []string
	Places                                   []Place
}

// layouts are the names of the recorded layouts.
func layouts(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("testdata/layouts/*/node.json")
	if err != nil || len(found) < 20 {
		t.Fatalf("%d layouts are recorded (%v)", len(found), err)
	}
	for i := range found {
		found[i] = filepath.Base(filepath.Dir(found[i]))
	}
	return found
}

// factsOf reads a recorded layout with the reader of the product.
func factsOf(t *testing.T, name string) Facts {
	t.Helper()
	dir := filepath.Join("testdata/layouts", name)
	text, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r recorded
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if r.Source == "" {
		t.Errorf("%s: where is it from?", name)
	}
	f := Facts{PID: 1, Program: r.Program, Version: r.Version, Config: r.Config, Cgroup: r.Cgroup, Path: r.Path, Places: r.Places, Bin: "/image/bin"}
	if f.Places == nil {
		f.Places = []Place{{"/usr/local/bin", true, true, true}}
	}
	root, err := filepath.Abs(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	if failure := f.readFiles(root); failure != nil {
		t.Fatal(failure)
	}
	f.readSystem(root)
	f.CgroupDriver = systemd
	return f
}

// TestLayouts compares the plan of each recorded layout with its golden file.
func TestLayouts(t *testing.T) {
	for _, name := range layouts(t) {
		t.Run(name, func(t *testing.T) {
			f := factsOf(t, name)
			plan, failure := decide(f, Options{Restart: RestartSystemd})
			got := describePlan(f, plan, failure)
			golden := filepath.Join("testdata/layouts", name, "plan.golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || got != string(want) {
				t.Errorf("the plan is (%v)\n%s\nwant\n%s", err, got, want)
			}
			if failure == nil {
				wantStable(t, f, plan)
			}
		})
	}
}

// describePlan writes a plan down. Of a file in which only our block is ours, it has only the block.
func describePlan(f Facts, p Plan, failure *Failure) string {
	var b strings.Builder
	fmt.Fprintf(&b, "layout: %s\nunit: %s\n", p.Layout, unitOf(f.Cgroup))
	if failure != nil {
		fmt.Fprintf(&b, "failure: %s: %s\n", failure.Step, failure)
		return b.String()
	}
	fmt.Fprintf(&b, "programs: %s\n", p.Programs)
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	for _, file := range p.Files {
		content := string(file.Content)
		place := "all"
		if file.Block {
			before, rest, _ := strings.Cut(content, begin)
			inside, after, _ := strings.Cut(rest, end+"\n")
			content = begin + inside + end + "\n"
			place = fmt.Sprintf("between %d and %d lines of others", strings.Count(before, "\n"), strings.Count(after, "\n"))
		}
		fmt.Fprintf(&b, "-- %s (%s)\n%s", file.Path, place, content)
	}
	if p.Preview != nil {
		fmt.Fprintln(&b, "-- verified by a preview: the distribution generates the configuration")
	}
	return b.String()
}

// wantStable wants the same plan once it is in place, and the files of others unchanged without our block.
func wantStable(t *testing.T, before Facts, plan Plan) {
	t.Helper()
	after := before
	after.Files = map[string][]byte{}
	for path, text := range before.Files {
		after.Files[path] = text
	}
	for _, file := range plan.Files {
		after.Files[file.Path] = file.Content
		if !file.Block {
			continue
		}
		own, err := withoutBlock(file.Content)
		was := before.Files[file.Path]
		if was == nil && filepath.Ext(file.Path) == ".tmpl" {
			was = []byte(rancherBase)
		}
		if err != nil || !bytes.Equal(bytes.TrimRight(own, "\n"), bytes.TrimRight(was, "\n")) {
			t.Errorf("%s without the block is (%v)\n%s\nwas\n%s", file.Path, err, own, was)
		}
	}
	again, failure := decide(after, Options{Restart: RestartSystemd})
	if failure != nil {
		t.Fatalf("the second time: %s", failure)
	}
	if first, second := describePlan(before, plan, nil), describePlan(after, again, nil); first != second {
		t.Errorf("the second time the plan is\n%s\nwant\n%s", second, first)
	}
}

// TestRefusals: facts with which nothing may be changed.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		layout string
		edit   func(*Facts, *Options)
		step   string
		words  string
	}{
		"unknown version": {"kubeadm-2.4", func(f *Facts, _ *Options) { f.Version = "1.5.9" }, StepContainerd, "only 1.6, 1.7 and 2.x"},
		"1.8":             {"kubeadm-2.4", func(f *Facts, _ *Options) { f.Version = "1.8.0" }, StepContainerd, "only 1.6, 1.7 and 2.x"},
		"3.0":             {"kubeadm-2.4", func(f *Facts, _ *Options) { f.Version = "3.0.0" }, StepContainerd, "only 1.6, 1.7 and 2.x"},
		"no version":      {"kubeadm-2.4", func(f *Facts, _ *Options) { f.Version = "unknown" }, StepContainerd, "only 1.6, 1.7 and 2.x"},
		"no TOML":         {"kubeadm-2.4", edit("version = \n"), StepConfig, "cannot read"},
		"only others' imports": {
			"kubeadm-2.4", edit("version = 3\nimports = ['/nowhere/*.toml']\n"), StepConfig, "imports only other files",
		},
		"imports nothing, in several lines": {"kubeadm-2.4", edit("version = 3\nimports = [\n]\n"), StepConfig, "imports nothing"},
		"a handler of others": {
			"kubeadm-2.4", edit("version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.lifecycle]\nruntime_type = 'x'\n"), StepConfig, "already has",
		},
		"a handler of others in an import": {"kubeadm-2.4", func(f *Facts, _ *Options) {
			f.Files["/etc/containerd/conf.d/other.toml"] = []byte("version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.lifecycle]\nruntime_type = 'x'\n")
		}, StepConfig, "/etc/containerd/conf.d/other.toml already has"},
		"a handler of others in our place": {"kubeadm-2.4", func(f *Facts, _ *Options) {
			f.Files["/etc/containerd/conf.d/lifecycle.toml"] = []byte("version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.lifecycle]\nruntime_type = 'io.containerd.kata.v2'\n")
		}, StepConfig, "already has"},
		"a handler of others in a template": {"microk8s-1.7", func(f *Facts, _ *Options) {
			path := filepath.Join(filepath.Dir(f.Config), microK8sTemplate)
			f.Files[path] = append(f.Files[path], "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.lifecycle]\n"...)
		}, StepConfig, "containerd-template.toml already has"},
		"a block without an end": {"kubeadm-2.4", edit(begin + "\nversion = 3\n"), StepConfig, "has no line"},
		"CRI is disabled":        {"kubeadm-1.7", edit("version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n"), StepConfig, "disables CRI"},
		"docker's file":          {"kubeadm-2.4", edit("disabled_plugins = [\"cri\"]\n"), StepConfig, "disables CRI"},
		"version 3 in 1.7":       {"kubeadm-1.7", edit("version = 3\n"), StepConfig, "not a configuration of version 2"},
		"another default runtime in 1.7": {
			"kubeadm-1.7", edit("version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\ndefault_runtime_name = 'crun'\n"), StepConfig, "default runtime crun",
		},
		"an old k3s": {"k3s-1.7", func(f *Facts, _ *Options) { f.Version = "1.7.1-k3s1" }, StepConfig, "no base template"},
		"no template of microk8s": {"microk8s-1.7", func(f *Facts, _ *Options) {
			delete(f.Files, filepath.Join(filepath.Dir(f.Config), microK8sTemplate))
		}, StepConfig, "is missing"},
		"runtime path in Debian's": {"debian-1.6", func(_ *Facts, o *Options) { o.RuntimePath = true }, StepOptions, "1.6.21"},
		"missing programs":         {"kubeadm-2.4", func(f *Facts, _ *Options) { f.Missing = []string{shimName} }, StepPrograms, "cannot find /image/bin/" + shimName},
		"no place for programs": {"kubeadm-2.4", func(f *Facts, _ *Options) {
			f.Places = []Place{{"/a", false, true, true}, {"/b", true, false, true}, {"/c", true, true, false}}
		}, StepPrograms, "/a: it cannot be written, /b: programs there cannot be executed (noexec), /c: others than root"},
	} {
		t.Run(name, func(t *testing.T) {
			f, o := factsOf(t, c.layout), Options{}
			c.edit(&f, &o)
			if _, failure := decide(f, o); failure == nil || failure.Step != c.step || !strings.Contains(failure.Error(), c.words) {
				t.Errorf("%v, want %s: %q", failure, c.step, c.words)
			}
		})
	}
}

// edit replaces the configuration.
func edit(text string) func(*Facts, *Options) {
	return func(f *Facts, _ *Options) { f.Files[f.Config] = []byte(text) }
}

// TestPrograms: where they go, and when the handler names the shim's path.
func TestPrograms(t *testing.T) {
	for name, c := range map[string]struct {
		edit           func(*Facts, *Options)
		programs, path string
		copies         int
	}{
		"chosen":                  {func(*Facts, *Options) {}, "/usr/local/bin", "", 3},
		"a package's":             {func(f *Facts, _ *Options) { f.Bin = "/usr/bin" }, "/usr/bin", "", 0},
		"a prefix":                {func(_ *Facts, o *Options) { o.Prefix = "/opt/x" }, "/opt/x/bin", "/opt/x/bin/" + shimName, 3},
		"a prefix, already there": {func(f *Facts, o *Options) { o.Prefix, f.Bin = "/opt/x", "/opt/x/bin" }, "/opt/x/bin", "/opt/x/bin/" + shimName, 0},
		"a prefix on the PATH":    {func(f *Facts, o *Options) { o.Prefix = "/opt/x"; f.Path = append(f.Path, "/opt/x/bin") }, "/opt/x/bin", "", 3},
		"beside containerd":       {func(f *Facts, o *Options) { o.Prefix, f.Program = "/opt/x", "/opt/x/bin/containerd" }, "/opt/x/bin", "", 3},
		"containerd does not run": {func(f *Facts, o *Options) { o.Prefix, f.PID = "/opt/x", 0 }, "/opt/x/bin", "", 3},
		"1.6.20 ignores the path": {func(f *Facts, o *Options) { o.Prefix, f.Version = "/opt/x", "1.6.20" }, "/opt/x/bin", "", 3},
		"the second place": {func(f *Facts, _ *Options) {
			f.Places = []Place{{"/usr/local/bin", true, false, true}, {"/opt/containerd/bin", true, true, true}}
		}, "/opt/containerd/bin", "/opt/containerd/bin/" + shimName, 3},
		"runc's type has a path":    {func(_ *Facts, o *Options) { o.RuntimePath = true }, "/usr/local/bin", "/usr/local/bin/" + shimName, 3},
		"a place that others write": {func(f *Facts, _ *Options) { f.Places = slices.Insert(f.Places, 0, Place{"/srv", true, true, false}) }, "/usr/local/bin", "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			f, o := factsOf(t, "kubeadm-1.7"), Options{}
			c.edit(&f, &o)
			p, failure := decide(f, o)
			if failure != nil || p.Programs != c.programs || p.Handler.Path != c.path || len(p.Copies) != c.copies {
				t.Errorf("%v: %s, path %q, %d copies", failure, p.Programs, p.Handler.Path, len(p.Copies))
			}
		})
	}
}
