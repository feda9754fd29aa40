package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// slowness is what the tests are told of the machine, by harness.Slowness: the emulator needs 10 to 15 times the processor.
const slowness = 10

// packages of tests that the machine runs, in this order: the harness first, as the others rely on what it says.
var packages = []string{"integration/harness", "integration", "integration/parity"}

// targets, as the tests name them, that are left out wherever a test has them.
var targets = []exclusion{
	{"1.7-runc", "the daemon's version has no part in cgroups; what the shim and the runtimes do is the same as under 2.4"},
	{"1.6-runc", "the same"},
}

// exclusion is a test that does not run on the machine, or a target.
type exclusion struct{ name, why string }

// excluded tests, by package. A name that no test has is an error.
var excluded = map[string][]exclusion{
	"integration/harness": {},
	"integration": {
		{"TestInstall", needsGo},
		{"TestSecurityDocument", needsGo},
		{"TestDoctor", "one of its cases needs Go, and each may reach the 5 s that the doctor has for a program, in an emulator; no part in cgroups"},
		{"TestNodeInstall", "its doctor may reach these 5 s; TestDoctorFindsNothing shows the same files"},
	},
	"integration/parity": {},
}

const needsGo = "needs Go and make, and nothing of the kernel"

// skip is for -test.skip: the package's excluded tests, and the targets at whatever depth they are.
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

// check the package's exclusions against the names of its tests, one a line, as -test.list prints them.
func check(pkg, list string) error {
	tests := strings.Fields(list)
	for _, e := range excluded[pkg] {
		if !slices.Contains(tests, e.name) {
			return fmt.Errorf("%s has no %s: plan.go leaves it out", pkg, e.name)
		}
		if e.why == "" {
			return fmt.Errorf("plan.go leaves %s out, and does not say why", e.name)
		}
	}
	return nil
}
