package kubernetes

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
)

// FAULTS B8. The sidecars of these pods have what upstream's tests want of them
// (test/e2e_node/container_lifecycle_test.go of v1.36.3, lines 4788, 4934 and 5841): a
// preStop begins when the pod's end begins, and has the rest of the grace period.

// sidecar of that name, with handlers or nil.
func sidecar(name, script string, handlers *core.Lifecycle) core.Container {
	c := container(name, script, handlers)
	c.RestartPolicy = ptr(core.ContainerRestartPolicyAlways)
	return c
}

// stamp is a script that notes what happened when, in seconds since the machine began.
func stamp(what string) string {
	return fmt.Sprintf(`read up rest < /proc/uptime; echo "%s $up" >> stamps; `, what)
}

// timed is the script of a container that notes its end; it takes a moment after SIGTERM.
func timed(name string, takes float64) string {
	return fmt.Sprintf("trap '%ssleep %g; %sexit 0' TERM; touch %s-started /tmp/started; sleep 1000 & while :; do wait; done",
		stamp(name+"-TERM"), takes, stamp(name+"-end"), name)
}

// stamps are the first and the last time of each.
func (p *pod) stamps() (first, last map[string]time.Duration) {
	p.b.Helper()
	file, err := os.Open(filepath.Join(p.dir, "stamps"))
	if err != nil {
		p.b.Fatal(err)
	}
	defer file.Close()
	first, last = map[string]time.Duration{}, map[string]time.Duration{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			p.b.Fatal(err)
		}
		at := time.Duration(seconds * float64(time.Second))
		if _, ok := first[name]; !ok {
			first[name] = at
		}
		last[name] = at
	}
	return first, last
}

// createWithSidecars makes a pod of these sidecars and the container app. Only the
// sidecars' preStops are left to the kubelet.
func (b *bench) createWithSidecars(edit func(*core.PodSpec), app core.Container, sidecars ...core.Container) *pod {
	b.Helper()
	p := b.createAs(nil, func(spec *core.PodSpec) {
		spec.RestartPolicy = core.RestartPolicyNever
		spec.InitContainers = sidecars
		if edit != nil {
			edit(spec)
		}
	}, app)
	for _, c := range p.object().Spec.InitContainers {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PostStart != nil {
			b.Fatalf("%s has %+v, want only its preStop", c.Name, c.Lifecycle)
		}
	}
	return p
}

// ends are the exit codes by container, when all have ended.
func (p *pod) ends() map[string]int32 {
	p.b.Helper()
	codes := map[string]int32{}
	p.b.poll("the end of all containers", func() bool {
		status := p.status()
		for _, one := range append(status.InitContainerStatuses, status.ContainerStatuses...) {
			if one.State.Terminated == nil {
				return false
			}
			codes[one.Name] = one.State.Terminated.ExitCode
		}
		return true
	})
	return codes
}

func (b *bench) wantEnds(p *pod, want map[string]int32) {
	b.Helper()
	if got := p.ends(); fmt.Sprint(got) != fmt.Sprint(want) {
		b.Errorf("exit codes %v, want %v", got, want)
	}
}

// busy is how much later than meant things may happen on a machine that runs other pods.
const busy = 3 * time.Second

func (b *bench) wantBetween(what string, got, least, most time.Duration) {
	b.Helper()
	b.Logf("%s: %v", what, got)
	if got < least || got > most {
		b.Errorf("%s: %v, want %v to %v", what, got, least, most)
	}
}

// Upstream's line 4934: when the main container has completed, the preStops of all
// sidecars begin together, and their signals come one after the other, in reverse order.
// postStart is the shim's: each sidecar waits for that of the one before.
func TestSidecarPreStopsBeginTogether(t *testing.T) {
	b := on(t)
	side := func(name string) core.Container {
		return sidecar(name, timed(name, 0.2), &core.Lifecycle{
			PostStart: command("/bin/sh", "-c", "while [ ! -e "+name+"-started ]; do sleep 0.02; done; "+stamp(name+"-postStart")),
			PreStop:   command("/bin/sh", "-c", stamp(name+"-preStop")+"sleep 1"),
		})
	}
	p := b.createWithSidecars(nil, container("app", stamp("app")+"while [ ! -e go ]; do sleep 0.02; done; "+stamp("app-end"), nil), side("s1"), side("s2"), side("s3"))
	p.ready()
	p.touch("go")
	b.wantEnds(p, map[string]int32{"app": 0, "s1": 0, "s2": 0, "s3": 0})
	first, _ := p.stamps()
	for _, order := range [][2]string{
		{"s1-postStart", "s2-postStart"},
		{"s2-postStart", "s3-postStart"},
		{"s3-postStart", "app"},
		{"app-end", "s1-preStop"},
		{"s1-preStop", "s3-TERM"},
		{"s3-end", "s2-TERM"},
		{"s2-end", "s1-TERM"},
	} {
		if first[order[0]] == 0 || first[order[1]] < first[order[0]] {
			b.Errorf("%s is not before %s: %v", order[0], order[1], first)
		}
	}
	for _, other := range []string{"s2-preStop", "s3-preStop"} {
		b.wantBetween(other+" after s1-preStop", first[other]-first["s1-preStop"], -busy, busy)
	}
}

// Upstream's line 4788: a preStop that does not end has the whole grace period and the
// kubelet's 2 s more, together with those of the other sidecars.
func TestSidecarPreStopsEndTogether(t *testing.T) {
	b := on(t)
	side := func(name string) core.Container {
		return sidecar(name, timed(name, 5), &core.Lifecycle{
			PostStart: command("/bin/sh", "-c", "while [ ! -e "+name+"-started ]; do sleep 0.02; done"),
			PreStop:   command("/bin/sh", "-c", "while :; do "+stamp(name+"-preStop")+"sleep 0.1; done"),
		})
	}
	const period = 10 * time.Second
	p := b.createWithSidecars(grace(int64(period/time.Second)), container("app", "while [ ! -e go ]; do sleep 0.02; done", nil), side("s1"), side("s2"), side("s3"))
	p.ready()
	p.touch("go")
	b.wantEnds(p, map[string]int32{"app": 0, "s1": 137, "s2": 137, "s3": 137})
	first, last := p.stamps()
	for _, name := range []string{"s1", "s2", "s3"} {
		b.wantBetween(name+"'s preStop", last[name+"-preStop"]-first[name+"-preStop"], period+tail-busy, period+tail+busy)
		b.wantBetween(name+"'s last sign after s1's", last[name+"-preStop"]-last["s1-preStop"], -busy, busy)
	}
}

// Upstream's line 5841: the sidecar whose preStop exceeds the grace period is killed, and
// the others, whose turn comes late, still end in order.
func TestSidecarPreStopExceedsGrace(t *testing.T) {
	b := on(t)
	side := func(name string, preStop int, takes float64) core.Container {
		return sidecar(name, timed(name, takes), &core.Lifecycle{PreStop: command("/bin/sh", "-c", fmt.Sprintf("sleep %d", preStop))})
	}
	p := b.createWithSidecars(grace(5), container("app", timed("app", 0.2), nil), side("s1", 1, 0.2), side("s2", 30, 20), side("s3", 1, 0.2))
	p.running()
	p.keep()
	done := p.deleteLater()
	b.wantEnds(p, map[string]int32{"app": 0, "s1": 0, "s2": 137, "s3": 0})
	b.poll("the phase Succeeded", func() bool { return p.status().Phase == core.PodSucceeded }) // after the containers' own states
	p.release()
	p.deleted(done)
}

// finalizer keeps a pod in the API server when it has ended.
const finalizer = "lifecycle-shim.test/keep"

func (p *pod) keep() {
	p.b.Helper()
	p.b.kubectl("patch", "pod", p.name, "--type=merge", "-p", `{"metadata":{"finalizers":["`+finalizer+`"]}}`)
	p.b.Cleanup(p.release)
}

func (p *pod) release() {
	ctx := p.b.Context()
	if ctx.Err() != nil { // in a Cleanup
		var cancel func()
		ctx, cancel = cleanupContext()
		defer cancel()
	}
	if _, err := p.b.Kubectl(ctx, "patch", "pod", p.name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`); err != nil && !strings.Contains(err.Error(), "NotFound") {
		p.b.Error(err)
	}
}

// A sidecar whose pod asks for it has both handlers run by the shim: the next container
// waits for its postStart, and all of its stop comes when the others have ended.
func TestSidecarMoved(t *testing.T) {
	b := on(t)
	p := b.createAs(map[string]string{"lifecycle-shim.io/sidecars": "Move"}, func(spec *core.PodSpec) {
		spec.InitContainers = []core.Container{sidecar("sidecar", entry("sidecar-"), handlers(waiting+"echo through >> log", "echo sidecar-preStop >> log"))}
	}, container("app", app, handlers("", "echo app-preStop >> log")))
	p.wantMoved()
	p.waitFor("begun")
	p.touch("go")
	p.running()
	p.wantLog("sidecar-start begun through start")
	p.delete()
	p.wantLog("sidecar-start begun through start app-preStop TERM sidecar-preStop sidecar-TERM")
}
