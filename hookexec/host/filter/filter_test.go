package filter

import (
	"bytes"
	"slices"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	libseccomp "github.com/seccomp/libseccomp-golang"
)

func allow(names ...string) *configs.Seccomp {
	eperm := uint(1)
	profile := &configs.Seccomp{
		DefaultAction: configs.Errno, DefaultErrnoRet: &eperm, Architectures: []string{"amd64", "x86", "x32"},
	}
	for _, name := range names {
		profile.Syscalls = append(profile.Syscalls, &configs.Syscall{Name: name, Action: configs.Allow})
	}
	return profile
}

func compile(t *testing.T, profile *configs.Seccomp) []byte {
	t.Helper()
	program, err := Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// instruction is the size of a sock_filter (linux/filter.h).
const instruction = 8

func TestCompile(t *testing.T) {
	one, two := compile(t, allow("read", "write")), compile(t, allow("read", "write", "mount"))
	if len(one) == 0 || len(one)%instruction != 0 || bytes.Equal(one, two) {
		t.Errorf("programs of %d and %d bytes", len(one), len(two))
	}
	if !bytes.Equal(one, compile(t, allow("read", "write"))) {
		t.Error("compiling the same profile twice gives different programs")
	}
	if _, err := Compile(&configs.Seccomp{DefaultAction: configs.Allow, Architectures: []string{"none such"}}); err == nil {
		t.Error("a profile with an unknown architecture was compiled")
	}
}

func TestUse(t *testing.T) {
	if err := Use(nil); err == nil {
		t.Error("Use accepts an empty program")
	}
	program := compile(t, allow("read", "exit"))
	t.Cleanup(forget)
	if err := Use(program); err != nil {
		t.Fatal(err)
	}
	filter, err := libseccomp.NewFilter(libseccomp.ActAllow)
	if err != nil {
		t.Fatal(err)
	}
	defer filter.Release()
	if got := export(t, filter); !bytes.Equal(got, program) {
		t.Errorf("libseccomp gives %d bytes, the program has %d", len(got), len(program))
	}
}

func TestReduce(t *testing.T) {
	profile := allow("read", "write", "nonesuch", "clone3", "openat2", "mount", "futex_waitv")
	profile.Syscalls = append(profile.Syscalls, &configs.Syscall{Name: "bpf", Action: configs.Notify})
	reduced, err := Reduce(profile)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, call := range reduced.Syscalls {
		names = append(names, call.Name)
	}
	// futex_waitv has the highest number, 449, on all architectures.
	if !slices.Equal(names, []string{"futex_waitv", "bpf"}) {
		t.Errorf("kept %q", names)
	}
	if reduced.DefaultAction != profile.DefaultAction || !slices.Equal(reduced.Architectures, profile.Architectures) || len(profile.Syscalls) != 8 {
		t.Errorf("reduced to %+v", reduced)
	}
	if _, err := Reduce(&configs.Seccomp{Architectures: []string{"none such"}}); err == nil {
		t.Error("a profile with an unknown architecture was reduced")
	}
}
