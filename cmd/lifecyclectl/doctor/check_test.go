package doctor

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
)

// healthy is a node without a finding.
func healthy() Facts {
	runtime := Runtime{
		Type: ourType, PodAnnotations: []string{"lifecycle-shim.io/*", "*.lifecycle-shim.io/*"}, ContainerAnnotations: []string{"io.kubernetes.*"},
	}
	return Facts{
		Version: "1.2.3", Handler: "lifecycle", Root: true, Kernel: "6.12.1-amd64", SystemdRuns: true, CgroupV2: true,
		Kubelet: &Kubelet{CgroupDriver: systemd, Source: "/var/lib/kubelet/config.yaml"},
		Containerds: []Containerd{{
			Address: "/run/c.sock", PID: 7, Version: "2.4.2+unknown", Path: "/usr/bin", Config: "/etc/containerd/config.toml",
			CRI:        &CRI{Runtimes: map[string]Runtime{"runc": {Type: runcType}, "lifecycle": runtime}, CgroupDriver: systemd},
			Shim:       Program{Name: ShimBinary, Path: "/usr/bin/" + ShimBinary, Version: "1.2.3"},
			Host:       Program{Name: hostBinary, Path: "/usr/bin/" + hostBinary, Version: "1.2.3"},
			OCIRuntime: Program{Name: "runc", Path: "/usr/bin/runc", Version: "1.5.2"},
		}},
	}
}

// handler changes the runtime handler.
func handler(change func(*Runtime)) func(*Facts) {
	return func(f *Facts) {
		r := f.Containerds[0].CRI.Runtimes["lifecycle"]
		change(&r)
		f.Containerds[0].CRI.Runtimes["lifecycle"] = r
	}
}

// containerd changes the containerd.
func containerd(change func(*Containerd)) func(*Facts) {
	return func(f *Facts) { change(&f.Containerds[0]) }
}

func all(changes ...func(*Facts)) func(*Facts) {
	return func(f *Facts) {
		for _, change := range changes {
			change(f)
		}
	}
}

var runcPath = handler(func(r *Runtime) { r.Type, r.Path = runcType, "/usr/local/bin/"+ShimBinary })

func options(o map[string]any) func(*Facts) { return handler(func(r *Runtime) { r.Options = o }) }

func ofVersion(v string) func(*Facts) { return containerd(func(c *Containerd) { c.Version = v }) }

// cases are a node with one thing changed each.
var cases = map[string]struct {
	change func(*Facts)
	want   string // level and check of each finding
	words  []string
}{
	"healthy":                   {change: func(*Facts) {}},
	"healthy, by path":          {change: all(runcPath, options(map[string]any{"SystemdCgroup": true}))},
	"healthy, type is a path":   {change: handler(func(r *Runtime) { r.Type = "/opt/" + ShimBinary })},
	"healthy, 1.6":              {change: ofVersion("1.6.20~ds1")},
	"healthy, no version":       {change: ofVersion("")},
	"healthy, 1.6.21 by path":   {change: all(ofVersion("1.6.21"), runcPath)},
	"healthy, follows the path": {change: all(runcPath, func(f *Facts) { f.Kubelet = nil })},
	"healthy, runtime handler else": {change: func(f *Facts) {
		f.Handler = "x"
		f.Containerds[0].CRI.Runtimes["x"] = f.Containerds[0].CRI.Runtimes["lifecycle"]
	}},

	"not root":          {func(f *Facts) { *f = Facts{} }, "fault root", []string{"run this as root"}},
	"kernel too old":    {func(f *Facts) { f.Kernel = "5.4.0-1" }, "fault kernel", []string{"5.10"}},
	"kernel old":        {func(f *Facts) { f.Kernel = "6.1.0-28-amd64" }, "note kernel", []string{"6.9"}},
	"no containerd":     {func(f *Facts) { f.Containerds = nil }, "fault containerd", []string{"--address"}},
	"silent containerd": {containerd(func(c *Containerd) { *c = Containerd{Err: "connection refused"} }), "fault containerd", []string{"connection refused", "systemctl start"}},
	"containerd 1.5":    {ofVersion("1.5.9"), "fault containerd-version", []string{"1.6"}},
	"containerd 2.5":    {ofVersion("2.5.0"), "note containerd-version", []string{"2.4"}},

	"no handler":        {containerd(func(c *Containerd) { delete(c.CRI.Runtimes, "lifecycle") }), "fault handler", []string{"containerd/2.x/lifecycle.toml"}},
	"no handler in 1.7": {all(ofVersion("1.7.1"), containerd(func(c *Containerd) { delete(c.CRI.Runtimes, "lifecycle") })), "fault handler", []string{"containerd/1.x/lifecycle.toml"}},
	"not restarted": {containerd(func(c *Containerd) {
		c.File = &CRI{Runtimes: map[string]Runtime{"lifecycle": {}}}
		delete(c.CRI.Runtimes, "lifecycle")
	}), "fault handler", []string{"restart containerd"}},
	"CRI is off": {containerd(func(c *Containerd) { c.CRI, c.CRIDisabled = nil, true; c.Shim = Program{Name: ShimBinary} }), "note handler", []string{"switched off"}},
	"CRI failed": {containerd(func(c *Containerd) { c.CRI, c.CRIErr = nil, "unknown service" }), "fault handler", []string{"unknown service", "journalctl"}},
	"CRI failed without runc": {containerd(func(c *Containerd) {
		c.CRI, c.CRIErr, c.File = nil, "unknown service", &CRI{Runtimes: map[string]Runtime{"lifecycle": {}}}
	}), "fault handler", []string{"containerd/1.x/runc.toml", "/etc/containerd/config.toml"}},

	"runc's shim":        {handler(func(r *Runtime) { r.Type = runcType }), "fault runtime", []string{"runtime_path", ourType}},
	"another path":       {handler(func(r *Runtime) { r.Type, r.Path = runcType, "/x/containerd-shim-runc-v2" }), "fault runtime", []string{"/x/containerd-shim-runc-v2"}},
	"another type":       {handler(func(r *Runtime) { r.Type = "io.containerd.kata.v2" }), "fault runtime", []string{"kata"}},
	"path, and 1.6.20":   {all(ofVersion("1.6.20~ds1"), runcPath), "fault runtime", []string{"1.6.21", "without handlers"}},
	"options, and 1.6":   {all(ofVersion("1.6.36"), options(map[string]any{"BinaryName": "crun"})), "fault runtime", []string{"ConfigPath"}},
	"option file in 1.6": {all(ofVersion("1.6.36"), options(map[string]any{"ConfigPath": "/x"})), "", nil},

	"general key only":         {handler(func(r *Runtime) { r.PodAnnotations = r.PodAnnotations[:1] }), "fault pod-annotations", []string{"container.lifecycle-shim.io/lifecycle", "'*.lifecycle-shim.io/*'"}},
	"a star is not all":        {handler(func(r *Runtime) { r.PodAnnotations = []string{"*"} }), "fault pod-annotations", nil},
	"no container annotations": {handler(func(r *Runtime) { r.ContainerAnnotations = nil }), "fault container-annotations", []string{"'io.kubernetes.*'"}},

	"systemd without systemd":   {all(runcPath, options(map[string]any{"SystemdCgroup": true}), func(f *Facts) { f.SystemdRuns = false }), "fault cgroup-driver", []string{"SystemdCgroup = false"}},
	"the kubelet's is systemd":  {all(runcPath, options(map[string]any{}), containerd(func(c *Containerd) { c.CRI.CgroupDriver = "" })), "fault cgroup-driver", []string{"config.yaml", "SystemdCgroup = true"}},
	"the kubelet's is cgroupfs": {all(options(map[string]any{"SystemdCgroup": true}), func(f *Facts) { f.Kubelet.CgroupDriver = cgroupfs; f.Containerds[0].CRI.CgroupDriver = cgroupfs }), "fault cgroup-driver", []string{"SystemdCgroup = false"}},
	"CRI reports another":       {all(options(map[string]any{"SystemdCgroup": true}), func(f *Facts) { f.Kubelet.CgroupDriver = cgroupfs }), "note cgroup-driver", []string{"1.34"}},
	"neither says":              {all(options(map[string]any{"SystemdCgroup": false}), func(f *Facts) { f.Kubelet = nil; f.Containerds[0].CRI.CgroupDriver = "" }), "note cgroup-driver", []string{"SystemdCgroup = true"}},

	"no shim":          {containerd(func(c *Containerd) { c.Shim = Program{Name: ShimBinary}; c.Host = Program{} }), "fault shim", []string{"PATH, which is /usr/bin", "make install"}},
	"no shim at path":  {all(runcPath, containerd(func(c *Containerd) { c.Shim = Program{Name: "/x/" + ShimBinary}; c.Host = Program{} })), "fault shim", []string{"there is no /x/"}},
	"shim of another":  {containerd(func(c *Containerd) { c.Shim.Version = "1.2.2" }), "fault shim", []string{"1.2.2", "1.2.3"}},
	"shim without":     {containerd(func(c *Containerd) { c.Shim.Version = "" }), "fault shim", []string{"reports no version"}},
	"shim of arm":      {containerd(func(c *Containerd) { c.Shim.Err = "exec format error" }), "fault shim", []string{"exec format error"}},
	"no host":          {containerd(func(c *Containerd) { c.Host = Program{Name: hostBinary} }), "fault hookexec", []string{"beside the shim"}},
	"host of another":  {containerd(func(c *Containerd) { c.Host.Version = "1.2.4" }), "fault hookexec", []string{"1.2.4"}},
	"no runc":          {containerd(func(c *Containerd) { c.OCIRuntime = Program{Name: "crun"} }), "fault oci-runtime", []string{"crun", "BinaryName"}},
	"runc is broken":   {containerd(func(c *Containerd) { c.OCIRuntime.Err = "segmentation fault" }), "fault oci-runtime", []string{"segmentation fault"}},
	"settings":         {containerd(func(c *Containerd) { c.Settings.Err = "unknown setting" }), "fault settings", []string{"unknown setting", "refused"}},
	"metrics":          {containerd(func(c *Containerd) { c.Settings.MetricsFile, c.Settings.MetricsErr = "/x/y.prom", "no such directory" }), "fault metrics", []string{"make /x"}},
	"NRI":              {containerd(func(c *Containerd) { c.NRIPlugins = 2 }), "note nri", []string{"timeoutSeconds"}},
	"after an upgrade": {containerd(func(c *Containerd) { c.OtherShims = []int{8, 9} }), "note other-build", []string{"(2, such as process 8)"}},
	"two faults":       {containerd(func(c *Containerd) { c.Host = Program{Name: hostBinary}; c.Shim.Version = "0" }), "fault shim, fault hookexec", nil},
}

// TestDocumentation: docs/use/kubernetes.md names every check, and no other.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../../docs/use/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "Its checks: ")
	list, _, _ = strings.Cut(list, "\n\n")
	named := map[string]bool{}
	for _, name := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(list, -1) {
		named[name[1]] = true
	}
	found := map[string]bool{}
	for _, c := range cases {
		for _, finding := range strings.Split(c.want, ", ") {
			if _, check, ok := strings.Cut(finding, " "); ok {
				found[check] = true
			}
		}
	}
	if !maps.Equal(named, found) {
		t.Errorf("the page names %v, the cases are of %v", named, found)
	}
}

func TestCheck(t *testing.T) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			facts := healthy()
			c.change(&facts)
			var got, text []string
			for _, finding := range Check(facts) {
				got = append(got, string(finding.Level)+" "+finding.Check)
				text = append(text, finding.Message, finding.Cure)
				if finding.Level == Fault && finding.Cure == "" {
					t.Errorf("%+v has no cure", finding)
				}
				if aboutContainerd := len(facts.Containerds) > 0 && finding.Check != "kernel"; aboutContainerd && finding.Where != facts.Containerds[0].Address {
					t.Errorf("%+v is not of that containerd", finding)
				}
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("found %q, want %q: %q", got, c.want, text)
			}
			for _, word := range c.words {
				if !strings.Contains(strings.Join(text, "\n"), word) {
					t.Errorf("nothing says %q: %q", word, text)
				}
			}
		})
	}
}
