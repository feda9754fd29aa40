package hookexec

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

var netnsTime = flag.Duration("netns.time", 5*time.Second, "how long TestManyNamespaces runs")

// The main goroutine locks the process's first thread, which never ends, so that no other
// goroutine runs on it.
func init() { runtime.LockOSThread() }

// TestMain runs the tests in a user namespace unless they run as root: only there can they
// create network namespaces.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() == 0 {
		os.Exit(m.Run())
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Stdout, self.Stderr = os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := self.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a user namespace:", err)
		os.Exit(1)
	}
}

// newNetNS creates a network namespace with loopback up, these addresses in addition to
// loopback's own, and a process in it.
func newNetNS(t *testing.T, addresses ...string) NetNS {
	t.Helper()
	made := make(chan error, 1)
	inside := exec.Command("sleep", "1000")
	pidfd := -1
	inside.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	go func() {
		runtime.LockOSThread() // the thread ends in the namespace
		made <- func() error {
			made, err := netns.New()
			if err != nil {
				return err
			}
			defer made.Close()
			loopback, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(loopback); err != nil {
				return err
			}
			for _, address := range addresses {
				parsed, err := netlink.ParseAddr(address)
				if err != nil {
					return err
				}
				parsed.Flags = unix.IFA_F_NODAD // usable at once
				if err := netlink.AddrAdd(loopback, parsed); err != nil {
					return err
				}
			}
			return inside.Start()
		}()
	}()
	if err := <-made; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		_ = inside.Process.Kill()
		_ = inside.Wait() // killed by the signal
		_ = unix.Close(pidfd)
	})
	n := NetNS{Pidfd: pidfd}
	for _, address := range addresses {
		waitFor(t, func() bool { return n.reaches(address) })
	}
	return n
}

// reaches reports whether the address is local in the namespace. The kernel adds an IPv6 address's local route after the address
// and its prefix's route, in a worker (net/ipv6/addrconf.c, addrconf_dad_work; with IFA_F_NODAD too), which takes longer if the
// processors are busy.
func (n NetNS) reaches(address string) bool {
	var routes []netlink.Route
	err := n.do(func() error {
		ip, _, err := net.ParseCIDR(address)
		if err != nil {
			return err
		}
		routes, err = netlink.RouteGet(ip)
		return err
	})
	return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
}

// listen listens in the namespace until the end of the test.
func (n NetNS) listen(t testing.TB, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	err := n.do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

func portOf(listener net.Listener) int32 { return int32(listener.Addr().(*net.TCPAddr).Port) }

// TestDefaultHost: the namespace's first global address, else localhost.
func TestDefaultHost(t *testing.T) {
	for name, test := range map[string]struct {
		addresses []string
		named     string
		want      string
	}{
		"a named host":                 {[]string{"10.1.2.3/24"}, "192.0.2.1", "192.0.2.1"},
		"only loopback":                {nil, "", "localhost"},
		"one":                          {[]string{"10.1.2.3/24"}, "", "10.1.2.3"},
		"the first of two":             {[]string{"10.1.2.3/24", "10.1.2.4/24"}, "", "10.1.2.3"},
		"IPv6":                         {[]string{"fd00::7/64"}, "", "fd00::7"},
		"IPv4 before IPv6":             {[]string{"fd00::7/64", "10.1.2.3/24"}, "", "10.1.2.3"},
		"link-local ones do not count": {[]string{"169.254.1.1/16", "fe80::1/64", "fd00::7/64"}, "", "fd00::7"},
	} {
		t.Run(name, func(t *testing.T) {
			host, err := newNetNS(t, test.addresses...).host(test.named)
			if err != nil || host != test.want {
				t.Errorf("got %q, %v; want %q", host, err, test.want)
			}
		})
	}
}

// TestNamespaceOfAProcessThatHasGone: its pid is not used, as it may be reused.
func TestNamespaceOfAProcessThatHasGone(t *testing.T) {
	pidfd := -1
	gone := exec.Command("true")
	gone.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	err := NetNS{Pidfd: pidfd}.do(func() error { t.Error("the function was called"); return nil })
	if !errors.Is(err, unix.ESRCH) {
		t.Errorf("got %v", err)
	}
}

// TestThreadThatHasNotLeft: a thread that could not enter the namespace can be used again.
func TestThreadThatHasNotLeft(t *testing.T) {
	if back, err := (NetNS{Pidfd: -1}).visit(nil); !back || !errors.Is(err, unix.EBADF) {
		t.Errorf("got %t, %v", back, err)
	}
}

func TestPanicInANamespaceIsContained(t *testing.T) {
	err := newNetNS(t).do(func() error { panic("x") })
	if err == nil || err.Error() != "panic: x" {
		t.Errorf("got %v", err)
	}
}

// TestThreadsGoOn: the shim's runc is killed when the thread that started it ends, so a handler must not end a thread. Here
// the thread in the namespace starts the process.
func TestThreadsGoOn(t *testing.T) {
	n := newNetNS(t)
	for range 20 {
		child := exec.Command("sleep", "1000")
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		thread := 0
		err := n.do(func() error {
			thread = unix.Gettid()
			return child.Start()
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 { // enough for a thread to end
			if err := n.do(func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread)); err != nil {
			t.Errorf("the thread has ended: %v", err)
		}
		_ = child.Process.Signal(syscall.SIGTERM)
		_ = child.Wait() // killed by a signal
		if signal := child.ProcessState.Sys().(syscall.WaitStatus).Signal(); signal != syscall.SIGTERM {
			t.Fatalf("it was killed by %v", signal)
		}
	}
}

// TestThreadThatCannotComeBack: the thread ends, so that no other goroutine runs in the wrong namespace.
func TestThreadThatCannotComeBack(t *testing.T) {
	n := newNetNS(t)
	thread := 0
	err := n.do(func() error {
		thread = unix.Gettid()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		return unix.Capset(&header, &new([2]unix.CapUserData)[0]) // only this thread's; setns(2) then fails
	})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread))
		return os.IsNotExist(err)
	})
}

// TestNamespaceWithoutDescriptors: without a way back, the function is not called. If the addresses cannot be listed, host
// returns an error.
func TestNamespaceWithoutDescriptors(t *testing.T) {
	n := newNetNS(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limited := func(spare int, do func()) {
		t.Helper()
		lowered := limit
		lowered.Cur = numberAfter(t, spare)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
		do()
	}
	limited(0, func() {
		ran := false
		err := n.do(func() error { ran = true; return nil })
		if !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "open the shim's own network namespace") || ran {
			t.Fatalf("got %v, called: %t", err, ran)
		}
		if back, err := n.visit(nil); !back || err == nil {
			t.Errorf("the thread has ended: %v", err)
		}
	})
	limited(1, func() {
		if host, err := n.host(""); !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "list the addresses") {
			t.Errorf("got %q, %v", host, err)
		}
		result := (&TCPSocket{NetNS: n, Socket: &lifecyclev1.TCPSocketAction{Port: 80}}).Attempt(t.Context())
		if result.Outcome != lifecycle.Failed || !strings.Contains(result.Err.Error(), "list the addresses") {
			t.Errorf("a tcpSocket: %+v", result)
		}
	})
	if host, err := (NetNS{Pidfd: -1}).host(""); !errors.Is(err, unix.EBADF) {
		t.Errorf("without a namespace: got %q, %v", host, err)
	}
}

// count returns the number of this process's threads, how many of them are in another
// network namespace, and the number of its descriptors.
func count(t *testing.T) (threads, foreign, descriptors int) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		link, err := os.Readlink(path)
		if err != nil {
			continue // the thread has ended
		}
		threads++
		if link != own {
			foreign++
		}
	}
	return threads, foreign, openFDs(t)
}

// TestManyNamespaces: handlers of many containers at once reach each its own container.
// They leave no thread, no descriptor, and no thread in another namespace.
func TestManyNamespaces(t *testing.T) {
	const namespaces = 20
	const address, port = "10.1.2.3", 8080 // the same in all of them
	var spaces []NetNS
	for i := range namespaces {
		n := newNetNS(t, address+"/24")
		listener := n.listen(t, fmt.Sprintf("%s:%d", address, port))
		server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if want := fmt.Sprintf("/%d", i); r.URL.Path != want {
				t.Errorf("a request for %s reached %s", r.URL.Path, want)
			}
		})}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
		spaces = append(spaces, n)
	}
	round := func(number int) Result {
		n := spaces[number%namespaces]
		switch number % 3 {
		case 0:
			socket := &lifecyclev1.TCPSocketAction{Port: port}
			return (&TCPSocket{NetNS: n, Socket: socket}).Attempt(t.Context())
		case 1: // must fail
			socket := &lifecyclev1.TCPSocketAction{Port: port + 1}
			result := (&TCPSocket{NetNS: n, Socket: socket}).Attempt(t.Context())
			if result.Outcome != lifecycle.Failed {
				return Result{Outcome: lifecycle.Failed, Err: errors.New("it connects although nothing listens")}
			}
			return Result{}
		default:
			get := &lifecyclev1.HTTPGetAction{Port: port, Path: fmt.Sprint(number % namespaces)}
			return (&HTTPGet{NetNS: n, Get: get}).Attempt(t.Context())
		}
	}
	inParallel(t, time.Second, round)
	threadsBefore, descriptorsBefore := settled(t)
	total := inParallel(t, *netnsTime, round)
	threadsAfter, descriptorsAfter := settled(t)
	t.Logf("%d handlers; threads %d before and %d after, descriptors %d and %d",
		total, threadsBefore, threadsAfter, descriptorsBefore, descriptorsAfter)
	// Go's runtime keeps idle threads, as many as were in system calls at once: one for each handler that ran, and some of
	// its own. How many there are depends on the machine's load.
	if most := max(threadsBefore, parallel) + 10; threadsAfter > most || descriptorsAfter > descriptorsBefore {
		t.Error("threads or descriptors are left")
	}
}

// parallel is how many handlers run at the same time.
const parallel = 100

// inParallel calls f in parallel until the time is over, and returns the number of calls.
func inParallel(t *testing.T, d time.Duration, run func(number int) Result) int64 {
	t.Helper()
	var (
		all   sync.WaitGroup
		total atomic.Int64
	)
	until := time.Now().Add(d)
	for range parallel {
		all.Go(func() {
			for time.Now().Before(until) {
				if result := run(int(total.Add(1))); result.Outcome != lifecycle.Succeeded {
					t.Errorf("%+v", result)
					return
				}
			}
		})
	}
	all.Wait()
	return total.Load()
}

// settled waits until ending threads have ended, and then counts.
func settled(t *testing.T) (threads, descriptors int) {
	t.Helper()
	same := 0
	waitFor(t, func() bool {
		nowThreads, foreign, nowDescriptors := count(t)
		if nowThreads != threads || nowDescriptors != descriptors || foreign > 0 {
			same = 0
		}
		same++
		threads, descriptors = nowThreads, nowDescriptors
		return same == 10
	})
	return threads, descriptors
}
