package attack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// dockerSeccomp is docker's default profile, as containerd has it.
func dockerSeccomp(config *harness.ContainerConfig) {
	edit := config.Edit
	config.Edit = func(spec *specs.Spec) {
		if edit != nil {
			edit(spec)
		}
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	}
}

// seccompFilters of a process, the last one first, as the kernel has them.
func seccompFilters(pid int) (filters [][]byte, err error) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return nil, fmt.Errorf("seize: %w", err)
	}
	defer func() { err = errors.Join(err, unix.PtraceDetach(pid)) }()
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, fmt.Errorf("interrupt: %w", err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return nil, fmt.Errorf("wait: %w", err)
	}
	const size = 8 // of a struct sock_filter
	for i := uintptr(0); ; i++ {
		count, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), i, 0, 0, 0)
		if errno == unix.ENOENT {
			return filters, nil
		}
		filter := make([]byte, count*size)
		if errno == 0 {
			_, _, errno = unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), i, uintptr(unsafe.Pointer(unsafe.SliceData(filter))), 0, 0)
		}
		if errno != 0 {
			return nil, fmt.Errorf("filter %d: %w", i, errno)
		}
		filters = append(filters, filter)
	}
}

// verdict of a seccomp filter, as the kernel would have it from the program. What the
// program loads are 32-bit words of struct seccomp_data in the machine's order
// (seccomp(2)); package bpf loads big-endian ones.
func verdict(filter *bpf.VM, arch, number uint32, argument int, value uint64) (int, error) {
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, number)
	binary.BigEndian.PutUint32(data[4:], arch)
	at := 16 + 8*argument
	binary.BigEndian.PutUint32(data[at:], uint32(value))
	binary.BigEndian.PutUint32(data[at+4:], uint32(value>>32))
	return filter.Run(data)
}

// program reads a filter.
func program(filter []byte) (*bpf.VM, error) {
	var raw []bpf.RawInstruction
	for i := 0; i+8 <= len(filter); i += 8 {
		raw = append(raw, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(filter[i:]), Jt: filter[i+2], Jf: filter[i+3], K: binary.NativeEndian.Uint32(filter[i+4:]),
		})
	}
	instructions, ok := bpf.Disassemble(raw)
	if !ok {
		return nil, errors.New("an instruction is not known")
	}
	return bpf.NewVM(instructions)
}

// verdicts of a filter for all system calls of the architectures of a machine, with
// arguments that docker's profile asks about, and others.
func verdicts(filter []byte) (map[string]int, error) {
	vm, err := program(filter)
	if err != nil {
		return nil, err
	}
	const x32 = 0x40000000 // __X32_SYSCALL_BIT
	arguments := []uint64{1, unix.AF_VSOCK, 0x20000, unix.CLONE_NEWUSER, 0xffffffff, 1 << 40}
	found := map[string]int{}
	for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM} {
		for _, bit := range []uint32{0, x32} {
			for number := range uint32(500) {
				for argument := range 2 {
					for _, value := range append([]uint64{0}, arguments...) {
						got, err := verdict(vm, arch, number|bit, argument, value)
						if err != nil {
							return nil, err
						}
						found[fmt.Sprintf("architecture %#x, system call %#x, argument %d %#x", arch, number|bit, argument, value)] = got
					}
				}
			}
		}
	}
	return found, nil
}

// docs/spec.md#privilege: a handler has the container's seccomp filter. It is not the runtime's own
// program, but one that is compiled once, when the container is created: libseccomp
// takes the architectures in an order that is another each time.
func TestHandlerHasTheSeccompFilterOfTheContainer(t *testing.T) {
	const command = "exec sleep 1002"
	handler := func(p harness.Process) bool { return strings.Join(p.Cmdline, " ") == "sleep 1002" }
	privileges := func(no bool) func(*harness.ContainerConfig) {
		return func(config *harness.ContainerConfig) {
			config.Edit = func(spec *specs.Spec) { spec.Process.NoNewPrivileges = no }
		}
	}
	for name, edit := range map[string]func(*harness.ContainerConfig){"no_new_privs": privileges(true), "new privileges": privileges(false)} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
				// postStart is begun early, preStop is not.
				c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{timeoutSeconds: 60, failurePolicy: Ignore, " + bed.Shell(command) + "}", bed.KeyPreStop: bed.Shell(command)}, bed.Obedient, edit, dockerSeccomp)
				find := func() int {
					var found []harness.Process
					b.Poll("the handler", func() bool { found = b.Processes(c, handler); return len(found) == 1 })
					return found[0].PID
				}
				filters := func(pid int) [][]byte {
					filters, err := seccompFilters(pid)
					if err != nil {
						b.Fatal(err)
					}
					return filters
				}
				postStart := find()
				c.WaitFor("ready")
				own := filters(int(c.MustState().PID))
				if len(own) != 1 || len(own[0]) == 0 {
					b.Fatalf("the container has %d filters, want docker's", len(own))
				}
				want, err := verdicts(own[0])
				if err != nil {
					b.Fatal(err)
				}
				wantSame := func(name string, got [][]byte) {
					if len(got) != 1 || len(got[0]) != len(own[0]) {
						b.Fatalf("%s has other filters than the container", name)
					}
					same, err := verdicts(got[0])
					if err != nil || !maps.Equal(same, want) {
						b.Errorf("%s's filter says other things than the container's (%v)", name, err)
					}
				}
				wantSame("postStart", filters(postStart))
				if err := unix.Kill(postStart, unix.SIGKILL); err != nil {
					b.Fatal(err)
				}
				if r := b.Await(result); r.Err != nil {
					b.Fatal(r.Err)
				}
				c.Signal(syscall.SIGTERM)
				wantSame("preStop", filters(find()))
				c.End(137)
			})
		})
	}
}
