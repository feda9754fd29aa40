package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DockerConfig says how to start a dockerd.
type DockerConfig struct {
	BinDir       string // dockerd and docker are here
	CgroupParent string // of every container
	// Settings are added to its daemon.json.
	Settings map[string]any
}

// Docker is a private dockerd beside a Daemon, whose containerd it uses. Everything of it is below Daemon.Dir. It has
// its own network namespace, over all its starts: its bridge, and the sysctls it sets, are there. What
// starts and stops it is not safe for concurrent use, the client commands are.
type Docker struct {
	Host string // for DOCKER_HOST

	cfg     DockerConfig
	daemon  *Daemon
	program Program
}

// StartDocker starts a dockerd, one for a Daemon, and returns when it answers. ctx bounds the start only.
func (d *Daemon) StartDocker(ctx context.Context, cfg DockerConfig) (*Docker, error) {
	docker := &Docker{Host: "unix://" + filepath.Join(d.dockerDir(), "docker.sock"), cfg: cfg, daemon: d}
	docker.program = Program{
		Name: "dockerd",
		// nsenter becomes dockerd: its process id is dockerd's.
		Args: []string{
			"nsenter", "--net=" + docker.networkNamespace(),
			filepath.Join(cfg.BinDir, "dockerd"), "--config-file", d.dockerConfigFile(),
		},
		Env: d.environ(), LogFile: docker.path("dockerd.log"), StopLimit: dockerStopLimit,
	}
	if err := docker.prepare(ctx); err != nil {
		return nil, errors.Join(err, docker.Close())
	}
	if err := docker.Start(ctx); err != nil {
		return nil, errors.Join(err, docker.Close())
	}
	return docker, nil
}

// dockerDir is where dockerd's files are. Its sockets, and those of its networks, have paths of at most 107 bytes.
func (d *Daemon) dockerDir() string        { return filepath.Join(d.Dir, "docker") }
func (d *Daemon) dockerConfigFile() string { return filepath.Join(d.dockerDir(), "daemon.json") }

func (d *Docker) path(name string) string  { return filepath.Join(d.daemon.dockerDir(), name) }
func (d *Docker) networkNamespace() string { return d.path("netns") }

// prepare writes the configuration, and makes the network namespace.
func (d *Docker) prepare(ctx context.Context) error {
	if err := os.MkdirAll(d.daemon.dockerDir(), 0o711); err != nil {
		return fmt.Errorf("dockerd's directory: %w", err)
	}
	settings := map[string]any{
		"hosts":         []string{d.Host},
		"group":         "root", // of the socket: there may be no group docker
		"data-root":     d.path("root"),
		"exec-root":     d.path("run"),
		"pidfile":       d.path("pid"),
		"containerd":    d.daemon.Address,
		"cgroup-parent": d.cfg.CgroupParent,
		"exec-opts":     []string{"native.cgroupdriver=cgroupfs"},
		// Containers reach each other, and nothing else: no packet filter is needed.
		"iptables": false, "ip6tables": false, "ip-masq": false, "userland-proxy": false,
	}
	maps.Copy(settings, d.cfg.Settings)
	text, err := json.MarshalIndent(settings, "", "  ")
	if err == nil {
		err = errors.Join(
			os.WriteFile(d.daemon.dockerConfigFile(), text, 0o600),
			os.WriteFile(d.networkNamespace(), nil, 0o600),
			os.WriteFile(d.path("nerdctl.toml"), fmt.Appendf(nil,
				"data_root = %q\ncni_netconfpath = %q\ncni_path = %q\ncgroup_manager = \"cgroupfs\"\n",
				d.path("nerdctl"), d.path("cni"), cniBinDir), 0o600))
	}
	if err != nil {
		return fmt.Errorf("dockerd's configuration: %w", err)
	}
	unshare := exec.CommandContext(ctx, "unshare", "--net="+d.networkNamespace(), busyboxPath, "ip", "link", "set", "lo", "up")
	if out, err := unshare.CombinedOutput(); err != nil {
		return fmt.Errorf("dockerd's network namespace: %w: %s", err, out)
	}
	return nil
}

// Start starts dockerd again after Terminate or Kill, and returns when it answers.
func (d *Docker) Start(ctx context.Context) error {
	if err := d.program.Start(); err != nil {
		return err
	}
	if err := d.waitReady(ctx); err != nil {
		return fmt.Errorf("dockerd does not answer: %w\n%s", err, tail(d.Log()))
	}
	return nil
}

func (d *Docker) waitReady(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(d.Host, "unix://"))
		},
	}}
	return Poll(ctx, readyLimit, "dockerd's API", func() (bool, error) {
		if err := d.program.Ended(); err != nil {
			return false, err
		}
		response, err := client.Get("http://docker/_ping")
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		return response.StatusCode == http.StatusOK, response.Body.Close()
	})
}

// Terminate stops dockerd as `systemctl stop` would, and waits for it. Containers continue only with live-restore.
func (d *Docker) Terminate() error { return d.program.Stop(syscall.SIGTERM) }

// Kill ends dockerd as a crash would, and waits for it. Containers continue.
func (d *Docker) Kill() error { return d.program.Stop(syscall.SIGKILL) }

// dockerStopLimit is above the 15 s that dockerd gives containers, and the 5 s for requests that it still answers.
const dockerStopLimit = 30 * time.Second

// Close stops dockerd. Containers that are left are the Daemon's, whose Close ends them.
func (d *Docker) Close() error {
	err := d.Terminate()
	for _, dir := range []string{"/run/docker/plugins", "/run/docker"} { // it has no option for another place
		_ = os.Remove(dir) // works only if no other program uses it
	}
	return err
}

// Log is everything dockerd has logged, over all its starts.
func (d *Docker) Log() string { return d.program.Log() }

// Env is what the clients (docker, nerdctl, ctr, lifecyclectl) need to find this dockerd and its containerd. ctr and
// nerdctl work in Namespace.
func (d *Docker) Env() []string {
	return append(d.daemon.environ(),
		"DOCKER_HOST="+d.Host, "DOCKER_CONFIG="+d.path("client"), "NERDCTL_TOML="+d.path("nerdctl.toml"),
		"CONTAINERD_ADDRESS="+d.daemon.Address, "CONTAINERD_NAMESPACE="+d.Namespace(),
		"CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=true") // that cgroup v1 will go says nothing about us
}

// Namespace is where ctr and nerdctl work; dockerd itself works in moby.
func (d *Docker) Namespace() string { return filepath.Base(d.daemon.Dir) }

// Output is what a command has said, and how it ended.
type Output struct {
	Stdout, Stderr string
	Status         int
	Took           time.Duration
}

// Run runs a client. The error says that it could not be run, or did not end in time: a status that is not 0 is none.
func (d *Docker) Run(ctx context.Context, stdin io.Reader, command ...string) (Output, error) {
	return RunCommand(ctx, d.Env(), stdin, command...)
}

// RunCommand runs a command with an environment, by whose PATH it is found.
func RunCommand(ctx context.Context, env []string, stdin io.Reader, command ...string) (Output, error) {
	var stdout, stderr bytes.Buffer
	// env(1) looks the program up in the PATH that it is given, os/exec in ours.
	cmd := exec.CommandContext(ctx, "env", append(append([]string{"-i"}, env...), command...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	cmd.WaitDelay = time.Second // a grandchild may keep the pipes open after a kill
	begin := time.Now()
	err := cmd.Run()
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.ExitCode(), Took: time.Since(begin)}
	var failed *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &failed) {
		return out, fmt.Errorf("%s: %w: %w: %s", strings.Join(command, " "), err, context.Cause(ctx), out.Stderr)
	}
	return out, nil
}

// Load loads images that ImageBusybox and its relatives name.
func (d *Docker) Load(ctx context.Context, refs ...string) error {
	archives, err := busyboxImages()
	if err != nil {
		return err
	}
	for _, ref := range refs {
		out, err := d.Run(ctx, bytes.NewReader(archives[ref]), "docker", "load")
		if err == nil && out.Status != 0 {
			err = errors.New(out.Stderr)
		}
		if err != nil {
			return fmt.Errorf("docker load %s: %w", ref, err)
		}
	}
	return nil
}
