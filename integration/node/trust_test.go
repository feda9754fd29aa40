package node

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// nobody is a user without rights (Debian, base-passwd).
const nobody = 65534

// stranger is an unprivileged user's process that pretends to be a daemon of the node's.
type stranger struct {
	t *testing.T
	// dir is his, and in it his PATH, bin, whose programs write to owned.
	dir, owned string
	// programs is a directory of root's with the attacker in it: plain, and set-user-id.
	programs string
}

func newStranger(t *testing.T) *stranger {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "lcs-stranger-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &stranger{t: t, dir: filepath.Join(dir, "his"), programs: filepath.Join(dir, "roots")}
	s.owned = filepath.Join(s.dir, "owned")
	for _, made := range []string{s.dir, filepath.Join(s.dir, "bin"), s.programs} {
		if err := os.Mkdir(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := "#!/bin/sh\n[ \"$1\" = -info ] || [ \"$1\" = features ] && exit 1 # containerd asks these itself\necho \"$(id -u): $0 $*\" >> " + s.owned + "\necho evil 6.6.6\n"
	for _, name := range []string{"containerd", "containerd-shim-lifecycle-v2", "lifecycle-hookexec", "runc"} {
		s.file(filepath.Join(s.dir, "bin", name), []byte(script), 0o755)
	}
	attacker, err := os.ReadFile(filepath.Join(bed.BinDir(t), "testattacker"))
	if err != nil {
		t.Fatal(err)
	}
	s.file(filepath.Join(s.programs, "attacker"), attacker, 0o755)
	s.file(filepath.Join(s.programs, "su"), attacker, 0o755|os.ModeSetuid)
	s.file(filepath.Join(s.programs, "containerd"), attacker, 0o755|os.ModeSetuid)
	s.file(filepath.Join(s.programs, "containerd-shim-lifecycle-v2"), attacker, 0o755|os.ModeSetuid)
	s.file(filepath.Join(s.dir, "containerd"), attacker, 0o755)
	s.file(filepath.Join(s.dir, "containerd-shim-lifecycle-v2"), attacker, 0o755)
	for _, path := range []string{dir, s.programs} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err = filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stranger) file(path string, text []byte, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(path, text, mode.Perm()); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the set-user-id bit, for any umask
		s.t.Fatal(err)
	}
}

// run starts a program as nobody, or as root, and returns when it says that it listens. It ends with the test.
func (s *stranger) run(uid int, edit func(*exec.Cmd), name string, args ...string) {
	s.t.Helper()
	command := exec.CommandContext(s.t.Context(), name, args...)
	command.Dir, command.Env = s.dir, []string{"PATH=" + filepath.Join(s.dir, "bin")}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}, Setpgid: true}
	if edit != nil {
		edit(command)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // its children too
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = command.Wait() // killed
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		s.t.Fatalf("%s %q says %q, %v", name, args, line, err)
	}
}

// wantNothingBelieved asks every command that speaks of other processes.
func (s *stranger) wantNothingBelieved(socket string) {
	s.t.Helper()
	for _, args := range [][]string{{"status"}, {"doctor", "-o", "json"}} {
		out, _ := s.ctl(args...) // there may be other containerds, with their own faults
		if strings.Contains(out, "owned") || strings.Contains(out, socket) || strings.Contains(out, s.dir) || strings.Contains(out, "6.6.6") {
			s.t.Errorf("lifecyclectl %s shows a stranger's words:\n%s", strings.Join(args, " "), out)
		}
	}
	for _, command := range []string{"doctor", "events"} {
		if out, err := s.ctl("--address", socket, command); err == nil || strings.Contains(out, "6.6.6") || strings.Contains(out, "version 2.4.0") {
			s.t.Errorf("lifecyclectl %s believes a stranger's socket: %v\n%s", command, err, out)
		}
	}
	if text, err := os.ReadFile(s.owned); err == nil {
		s.t.Fatalf("a stranger's program was run by uid %s", text)
	}
}

func (s *stranger) ctl(args ...string) (string, error) {
	out, err := exec.CommandContext(s.t.Context(), filepath.Join(bed.BinDir(s.t), "lifecyclectl"), args...).CombinedOutput()
	return string(out), err
}

// docs/spec.md#trust: each way in which an unprivileged user can make a process look
// like containerd or a shim. FAULTS A8: root ran a program of his PATH. A9: root was
// shown his words.
func TestStrangersAreNotBelieved(t *testing.T) {
	attacker := func(s *stranger) string { return filepath.Join(s.programs, "attacker") }
	for _, name := range []string{"containerd", "containerd-shim-lifecycle-v2"} {
		for way, start := range map[string]func(s *stranger, socket string){
			// The process itself is a set-user-id program that waits, and so has capabilities; a child answers.
			"set-user-id program with the name as argv[0]": func(s *stranger, socket string) {
				s.run(nobody, nil, attacker(s), "listen", socket, name, filepath.Join(s.programs, "su"))
			},
			"set-user-id program with the name as its file's": func(s *stranger, socket string) {
				s.run(nobody, nil, attacker(s), "listen", socket, name, filepath.Join(s.programs, name))
			},
			"his own program of that name": func(s *stranger, socket string) {
				s.run(nobody, nil, attacker(s), "listen", socket, name, filepath.Join(s.dir, name))
			},
			"his own program, deleted": func(s *stranger, socket string) {
				s.run(nobody, nil, attacker(s), "listen", socket, name, filepath.Join(s.dir, name))
				if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
					s.t.Fatal(err)
				}
			},
			"his own program, in a user namespace as its root": func(s *stranger, socket string) {
				s.run(nobody, func(c *exec.Cmd) {
					c.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
					c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}}
					c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}}
					c.SysProcAttr.Credential = &syscall.Credential{NoSetGroups: true}
				}, attacker(s), "listen", socket, name, filepath.Join(s.dir, name))
			},
			// As root, which a container's process is too, with what keeps it from being the node's.
			"root in another mount namespace": func(s *stranger, socket string) {
				s.run(0, func(c *exec.Cmd) { c.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS }, attacker(s), "listen", socket, name, s.plain(name))
			},
			"root with a program that others may replace": func(s *stranger, socket string) {
				s.run(0, nil, attacker(s), "listen", socket, name, filepath.Join(s.dir, name))
			},
			"root whose child has dropped its rights": func(s *stranger, socket string) {
				s.run(0, nil, "/usr/bin/setpriv", "--ruid=65534", attacker(s), "listen", socket, name, s.plain(name))
			},
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				s := newStranger(t)
				socket := filepath.Join(s.dir, "s")
				start(s, socket)
				s.wantNothingBelieved(socket)
			})
		}
	}
}

// plain is the attacker under that name, where root alone may write.
func (s *stranger) plain(name string) string {
	s.t.Helper()
	dir := filepath.Join(s.programs, "plain")
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Link(filepath.Join(s.programs, "attacker"), filepath.Join(dir, name)); err != nil {
		s.t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// The tests above can fail: the same process is asked when nothing is wrong with it.
func TestRootsOwnDaemonIsAsked(t *testing.T) {
	s := newStranger(t)
	socket := filepath.Join(s.programs, "s")
	s.run(0, nil, filepath.Join(s.programs, "attacker"), "listen", socket, "containerd", s.plain("containerd"))
	if out, _ := s.ctl("--address", socket, "doctor"); !strings.Contains(out, "version 2.4.0") {
		t.Errorf("doctor says %s", out)
	}
	// Paths that mean something else in a URL.
	for _, name := range []string{"a%zz", "b?c#d", "e f"} {
		s := newStranger(t)
		socket := filepath.Join(s.programs, name)
		s.run(0, nil, filepath.Join(s.programs, "attacker"), "listen", socket, "containerd", s.plain("containerd"))
		if out, _ := s.ctl("--address", socket, "doctor"); !strings.Contains(out, "version 2.4.0") {
			t.Errorf("%s: doctor says %s", name, out)
		}
	}
	shim := newStranger(t)
	socket = filepath.Join(shim.programs, "s")
	shim.run(0, nil, filepath.Join(shim.programs, "attacker"), "listen", socket, "containerd-shim-lifecycle-v2", shim.plain("containerd-shim-lifecycle-v2"))
	if out, _ := shim.ctl("--address", socket, "status"); !strings.Contains(out, "owned") {
		t.Errorf("status says %s", out)
	}
}

// A real containerd is believed, and still nothing is run from a directory of its PATH
// that others may write, nor through a link that leads there.
func TestDoctorRunsOnlyWhatRootInstalled(t *testing.T) {
	for name, path := range map[string]func(*stranger) string{
		"directory": func(s *stranger) string { return filepath.Join(s.dir, "bin") },
		"link":      func(s *stranger) string { return linkTo(s, filepath.Join(s.dir, "bin")) },
		"writable by all": func(s *stranger) string {
			dir := filepath.Join(s.programs, "open")
			if err := os.Mkdir(dir, 0o755); err != nil {
				s.t.Fatal(err)
			}
			for _, program := range []string{"containerd-shim-lifecycle-v2", "lifecycle-hookexec", "runc"} {
				text, err := os.ReadFile(filepath.Join(s.dir, "bin", program))
				if err != nil {
					s.t.Fatal(err)
				}
				s.file(filepath.Join(dir, program), text, 0o755)
			}
			if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
				s.t.Fatal(err)
			}
			return dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStranger(t)
			d := node(t, "2.4", func(config *harness.DaemonConfig) {
				config.ShimPath = []string{path(s)}
				config.ExtraConfig = handlerTOML(config.Server, good+annotations)
			})
			wantFindings(t, d, []string{"fault shim", "fault hookexec", "fault oci-runtime"}, "is not trusted")
			if text, err := os.ReadFile(s.owned); err == nil {
				t.Errorf("it was run by uid %s", text)
			}
		})
	}
}

func linkTo(s *stranger, dir string) string {
	s.t.Helper()
	link := filepath.Join(s.programs, "link")
	if err := os.Symlink(dir, link); err != nil {
		s.t.Fatal(err)
	}
	return link
}

// FAULTS A4: the name of an abstract socket that looks like another row of
// /proc/net/unix, which gives the inode of a shim's socket to a stranger's.
func TestNamesOfSocketsAreNotBelieved(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, bed.Obedient)
		c.WaitFor("ready")
		shims, err := b.Daemon.Shims()
		if err != nil || len(shims) != 1 {
			b.Fatalf("shims %v, %v", shims, err)
		}
		open, err := shims[0].Descriptors()
		if err != nil {
			b.Fatal(err)
		}
		s := newStranger(b.T)
		names := []string{"fake"}
		for i, link := range open {
			_, inode, ok := strings.Cut(link, "socket:[")
			if ok {
				names = append(names, fmt.Sprintf("z%d\n0: 00000002 00000000 00010000 0001 01 %s @fake", i, strings.TrimSuffix(inode, "]")))
			}
		}
		s.run(nobody, nil, filepath.Join(s.programs, "attacker"), append([]string{"names"}, names...)...)
		for range 8 {
			out, errOut, err := b.Ctl("status")
			if err != nil || errOut != "" || strings.Contains(out, "owned") || !strings.Contains(out, c.ID) {
				b.Fatalf("status says %q, %q, %v", out, errOut, err)
			}
		}
	})
}
