package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	// readyLimit bounds the time from exec to the first answered gRPC call. Usual: 0.2 s; a machine
	// with two busy cores and a cold page cache has been seen to take 5 s.
	readyLimit = Patience(30 * time.Second)
	// stopLimit bounds the time from SIGTERM or SIGKILL to the daemon's exit.
	stopLimit = Patience(15 * time.Second)
)

// logTail is how much of the log an error shows.
const logTail = 4096

// DaemonConfig says which containerd to start and how.
type DaemonConfig struct {
	Server Server
	Dir    string // created if need be, and removed by Close; empty: a new directory /run/lcs-…
	BinDir string // first on the daemon's PATH: shim and runc are found here
	// ShimPath are directories that come before BinDir, for instance with another build of the shim.
	ShimPath []string
	// Opt is the directory that containerd calls /opt/containerd: its bin comes before all others. Empty: none.
	Opt   string
	Env   []string // added to the daemon's environment, which its shims inherit
	Debug bool     // log at debug level, the shims too
	CRI   bool     // leave the CRI plugin on
	// Handlers are CRI's runtime handlers by name, besides its own.
	Handlers map[string]RuntimeHandler
	// Imports are files that containerd's configuration imports.
	Imports []string
	NRI     bool // listen for NRI plugins at Daemon.NRIAddress (1.7 and newer)
	// ExtraConfig is appended to containerd's configuration file: TOML, tables only. Plugin names
	// differ between 1.x and 2.x: see Server.Modern.
	ExtraConfig string
	// Binds are directories by the place at which the daemon finds them, in its own mount namespace. As with
	// HideUnified, the containers' mounts are then invisible from outside.
	Binds map[string]string
	// HideUnified starts the daemon in its own mount namespace, without the cgroup2 mount at
	// /sys/fs/cgroup/unified: crun 1.8.1 refuses that hybrid layout. The containers' mounts are then
	// invisible from outside, and go with the last process of that namespace.
	HideUnified bool
}

// RuntimeHandler is an entry of CRI's table of runtimes, with the README's annotations.
type RuntimeHandler struct {
	Type string
	Path string // of the shim; empty: found by its type
	// Options are further lines, in TOML, of its options table, which names runc and Daemon.RuncRoot.
	Options string
}

// Daemon is a private containerd. What starts and stops it is not safe for concurrent use, Client is. Its
// exported fields do not change.
type Daemon struct {
	Dir          string // everything of this daemon is below it
	Root         string // containerd's root
	RuncRoot     string // for the runc option Root, which is global to the machine by default
	Address      string // path of the gRPC socket
	TTRPCAddress string

	cfg     DaemonConfig
	program Program
	sockets socketNames
	// mounts is its own mount namespace, which stays the same when it is started
	// again, as its shims' does. Close closes it. nil: it has the test's.
	mounts *os.File

	mu      sync.Mutex // guards clients
	clients []*containerd.Client
}

// StartDaemon starts a containerd and returns when it answers. ctx bounds the start only: the daemon runs
// until Close.
func StartDaemon(ctx context.Context, cfg DaemonConfig) (*Daemon, error) {
	d, err := newDaemon(cfg)
	if err != nil {
		return nil, err
	}
	if err := d.Start(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func newDaemon(cfg DaemonConfig) (*Daemon, error) {
	Sweep()
	dir := cfg.Dir
	if dir == "" {
		// Not in TMPDIR: a unix socket's path has at most 107 bytes.
		made, err := os.MkdirTemp(filepath.Split(dirPattern))
		if err != nil {
			return nil, fmt.Errorf("a directory for containerd (the tests run as root): %w", err)
		}
		dir = made
	}
	d := daemonIn(dir)
	d.cfg = cfg
	d.program.Name = "containerd " + cfg.Server.Name
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return d, nil
}

// prepare makes the directories and files that containerd is started with.
func (d *Daemon) prepare() error {
	if len(d.Dir) > 30 { // containerd 2.4 refuses a socket_dir above 38 bytes
		return fmt.Errorf("directory %s is too long for unix sockets in it: use one of at most 30 bytes", d.Dir)
	}
	for _, dir := range []string{d.Root, d.RuncRoot, d.socketDir(), d.pathDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("containerd's directories: %w", err)
		}
	}
	if err := os.Chmod(d.Dir, 0o711); err != nil { // a container's root may be any user of the host
		return fmt.Errorf("containerd's directory: %w", err)
	}
	if err := os.WriteFile(d.configFile(), []byte(d.containerdConfig()), 0o600); err != nil {
		return fmt.Errorf("containerd's configuration: %w", err)
	}
	if d.cfg.CRI {
		if err := d.writePodNetwork(); err != nil {
			return err
		}
	}
	return errors.Join(d.linkStockShim(), Own(d.Dir))
}

func daemonIn(dir string) *Daemon {
	return &Daemon{
		program:      Program{Name: "containerd", LogFile: filepath.Join(dir, "containerd.log")},
		Dir:          dir,
		Root:         filepath.Join(dir, "root"),
		RuncRoot:     filepath.Join(dir, "runc"),
		Address:      filepath.Join(dir, "c.sock"),
		TTRPCAddress: filepath.Join(dir, "c.sock.ttrpc"),
	}
}

// linkStockShim puts the stock shim that fits the server first on PATH, and nothing else: the one in
// BinDir is 2.4's, which refuses older daemons.
func (d *Daemon) linkStockShim() error {
	shim := d.cfg.Server.StockShim
	if shim == "" {
		return nil
	}
	err := os.Symlink(shim, filepath.Join(d.pathDir(), "containerd-shim-runc-v2"))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("link to the stock shim: %w", err)
	}
	return nil
}

func (d *Daemon) configFile() string { return filepath.Join(d.Dir, "config.toml") }
func (d *Daemon) socketDir() string  { return filepath.Join(d.Dir, "s") }
func (d *Daemon) pathDir() string    { return filepath.Join(d.Dir, "bin") }

// NRIAddress is the socket NRI plugins connect to, with DaemonConfig.NRI.
func (d *Daemon) NRIAddress() string { return filepath.Join(d.Dir, "nri.sock") }

// Server is the server this daemon is an instance of.
func (d *Daemon) Server() Server { return d.cfg.Server }

// Pid is the daemon's process id, 0 while it is stopped.
func (d *Daemon) Pid() int { return d.program.Pid() }

// Start starts the daemon again after Terminate or Kill, with the same directories, and returns when it
// answers. Clients made before reconnect by themselves.
func (d *Daemon) Start(ctx context.Context) error {
	return d.start(ctx, d.cfg.CRI)
}

// StartWithoutCRI is Start for a daemon whose CRI plugin may be unable to start.
func (d *Daemon) StartWithoutCRI(ctx context.Context) error { return d.start(ctx, false) }

func (d *Daemon) start(ctx context.Context, withCRI bool) error {
	if err := d.exec(); err != nil {
		return err
	}
	if err := d.waitReady(ctx, withCRI); err != nil {
		return fmt.Errorf("containerd %s does not answer: %w\n%s", d.cfg.Server.Name, err, tail(d.Log()))
	}
	return nil
}

func (d *Daemon) exec() error {
	args := []string{d.cfg.Server.Binary, "--config", d.configFile()}
	d.program.Unshare = 0
	switch {
	case d.mounts != nil:
		args = append(d.enterMounts(), args...)
	case d.cfg.ownMounts():
		args = append([]string{"/bin/sh", "-c", d.cfg.mountScript() + `exec "$0" "$@"`}, args...)
		d.program.Unshare = syscall.CLONE_NEWNS
	}
	d.program.Args, d.program.Env = args, d.environ()
	if err := d.program.Start(); err != nil || d.mounts != nil || !d.cfg.ownMounts() {
		return err
	}
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", d.program.Pid()))
	d.mounts = mounts
	return err
}

// ownMounts says whether the daemon is in its own mount namespace.
func (c DaemonConfig) ownMounts() bool { return c.HideUnified || len(c.Binds) > 0 }

func (c DaemonConfig) mountScript() string {
	script := ""
	if c.HideUnified {
		script = "umount /sys/fs/cgroup/unified; "
	}
	for place, dir := range c.Binds {
		script += fmt.Sprintf("mount --bind '%s' '%s' || exit; ", dir, place)
	}
	return script
}

// environ is the test's environment with our PATH. XDG_RUNTIME_DIR and NOTIFY_SOCKET would lead outside.
func (d *Daemon) environ() []string {
	env := []string{"PATH=" + d.searchPath()}
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "PATH", "XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "CONTAINERD_NAMESPACE", "CONTAINERD_ADDRESS":
		default:
			env = append(env, kv)
		}
	}
	return append(env, d.cfg.Env...)
}

func (d *Daemon) searchPath() string {
	dirs := append([]string{d.pathDir()}, d.cfg.ShimPath...)
	dirs = append(dirs, d.cfg.BinDir)
	// sbin is in no user's PATH, and Debian's runc is there.
	dirs = append(dirs, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	return strings.Join(dirs, ":")
}

func (d *Daemon) waitReady(ctx context.Context, withCRI bool) error {
	client, err := containerd.New(d.Address)
	if err != nil {
		return err
	}
	defer client.Close()
	return Poll(ctx, readyLimit, "containerd's gRPC", func() (bool, error) {
		if err := d.program.Ended(); err != nil {
			return false, err
		}
		if _, err := os.Stat(d.Address); err != nil {
			return false, nil // a dial now would start gRPC's backoff
		}
		try, cancel := context.WithTimeout(ctx, Patience(time.Second))
		defer cancel()
		serving, _ := client.IsServing(try)
		return serving && (!withCRI || criServes(try, client)), nil
	})
}

// criServes says whether CRI has read what it knows of earlier containers, which continues when the rest of
// containerd already answers.
func criServes(ctx context.Context, client *containerd.Client) bool {
	conn := client.Conn().(grpc.ClientConnInterface) // it returns any, and has nothing else
	_, err := cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{})
	return err == nil
}

// Terminate stops the daemon as `systemctl stop` would, and waits for it. Shims and containers continue.
func (d *Daemon) Terminate() error { return d.stop(syscall.SIGTERM) }

// Kill ends the daemon as a crash would, and waits for it. Shims and containers continue.
func (d *Daemon) Kill() error { return d.stop(syscall.SIGKILL) }

func (d *Daemon) stop(sig syscall.Signal) error {
	if d.program.Pid() == 0 {
		return nil
	}
	late := d.program.Stop(sig)
	// 1.6 and 1.7 leave it behind, and Start takes the file for the sign that it listens.
	if err := os.Remove(d.Address); err != nil && !errors.Is(err, os.ErrNotExist) {
		late = errors.Join(late, err)
	}
	return late
}

// Log is everything the daemon, and with it the shims, have logged, over all its starts.
func (d *Daemon) Log() string { return d.program.Log() }

// LogTail is the end of Log.
func (d *Daemon) LogTail() string { return tail(d.Log()) }

func tail(text string) string {
	if len(text) <= logTail {
		return text
	}
	return "[…]" + text[len(text)-logTail:]
}
