package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// slowness is the factor by which the tests wait longer, harness.Slowness: the emulator needs 10 to 15 times the processor.
const slowness = 10

// packages of tests that the machine runs, in this order: the harness first, as the others rely on what it says.
var packages = []string{
	"integration/harness", "integration/apparmor", "integration/task", "integration/cri", "integration/attack", "integration/node", "integration/parity",
}

// targets, as the tests name them, that are left out wherever a test has them.
var targets = []exclusion{
	{"1.7-runc", "the daemon's version has no part in cgroups; what the shim and the runtimes do is the same as under 2.4"},
	{"1.6-runc", "the same"},
}

// exclusion is a test that does not run on the machine, or a target.
type exclusion struct{ name, why string }

// excluded tests, by package. A name that no test has is an error.
var excluded = map[string][]exclusion{
	"integration/harness":  {},
	"integration/apparmor": {},
	"integration/task":     {},
	"integration/cri":      {},
	"integration/attack":   {},
	"integration/node": {
		{"TestInstall", needsGo},
		{"TestDoctor", "one of its cases needs Go, and each may reach the 5 s that the doctor has for a program, in an emulator; no part in cgroups"},
		{"TestNodeInstall", "its doctor may reach these 5 s; TestDoctorFindsNothing shows the same files"},
	},
	"integration/parity": {},
}

// elsewhere are the packages of tests that the machine does not run, those below them included.
var elsewhere = []exclusion{
	{"integration/faults", "every fault in every phase: 10 min here would be hours there, and most faults are timed. It knows cgroup v2, for a machine that has it"},
	{"integration/kubernetes", "their own API server and kubelet; what CRI gives the shim is the same in integration/cri"},
	{"integration/docker", "its own dockerd; what it gives the shim is the same as in parity's systemd cgroups and in integration/task"},
	{"integration/archive", "the image of the programs, which Go packs; no part in cgroups"},
	{"integration/chart", "manifests that Helm and kustomize render; no part in cgroups"},
	{"integration/debian", "the package on its own Debian; no part in cgroups"},
	{"integration/lab", measures},
	{"integration/image", noContainer},
	{"integration/cgroup2", noContainer},
	{"integration/house", noContainer},
}

const (
	measures    = "measures, and an emulator's numbers say nothing"
	noContainer = "its tests make no container"
)

// point is what must be shown on cgroup v2, and the tests that show it.
type point struct {
	what  string
	tests []string
}

var points = []point{
	{"A handler is in its container's cgroup, as pid 1 is: also where the container manages cgroups below its own; onExit is in one below it", []string{
		"TestHandlerHasTheIdentityOfTheContainer", "TestPreStartHasTheIdentityOfTheContainer", "TestOnExitHasTheIdentityOfTheContainer",
		"TestHandlerOfContainerThatManagesCgroups",
	}},
	{"OOM: the container's limit holds for its handlers, the report names the process that is killed, and containerd publishes TaskOOM", []string{
		"TestOutOfMemory", "TestOnExitHasTheLimitsOfTheContainer", "TestOnExitIsToldTheEnd", "TestCRIOnExitIsToldTheEnd",
	}},
	{"Freeze: a paused container's handlers stand still and can be ended, its time limits still run, SIGKILL passes", []string{
		"TestPausedContainer", "TestPauseDuringPreStop", "TestPauseDuringPostStart", "TestKillOfPausedContainer", "TestCRIStopOfPausedContainer",
	}},
	{"systemd's paths (slice, scope): handlers of all kinds in a pod's scopes, under a real systemd; OOM in a scope; what the doctor says of the driver", []string{
		"TestDeployContainerd", "TestDoctorSystemdCgroups",
	}},
	{"AppArmor, which Debian's kernel has: each handler has its container's profile, and one whose label cannot be set does not run", []string{
		"TestHandlersHaveTheProfileOfTheContainer", "TestHandlerWithoutItsLabelDoesNotRun",
	}},
}

const needsGo = "needs Go and make, and nothing of the kernel"

// skip is for -test.skip: the package's excluded tests, and the targets at any depth.
func skip(pkg string) string {
	var names []string
	for _, e := range excluded[pkg] {
		names = append(names, exactly(e.name))
	}
	var left []string
	for _, target := range targets {
		left = append(left, regexp.QuoteMeta(target.name))
	}
	for depth := 1; depth <= 2; depth++ { // the less deep first: of the alternatives testing takes the first that matches, if only in part
		names = append(names, strings.Repeat(".*/", depth)+"^("+strings.Join(left, "|")+")$")
	}
	return strings.Join(names, "|")
}

func exactly(name string) string { return "^" + regexp.QuoteMeta(name) + "$" }

// excludedExist returns an error if a test that is left out is not in the package's list, or has no reason. The list has a name per
// line, as -test.list prints it.
func excludedExist(pkg, list string) error {
	tests := strings.Fields(list)
	for _, e := range excluded[pkg] {
		if !slices.Contains(tests, e.name) {
			return fmt.Errorf("%s has no %s: plan.go leaves it out", pkg, e.name)
		}
		if e.why == "" {
			return fmt.Errorf("plan.go leaves %s out without a reason", e.name)
		}
	}
	return nil
}
