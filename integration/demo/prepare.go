package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

// prepare gets an image, a containerd, and a view of its events.
func (d *demo) prepare(ctx context.Context) error {
	d.out.chapter("An nginx image, and a containerd of our own")
	if err := d.step("nginx image", func() (string, error) { return d.buildImage(ctx) }); err != nil {
		return err
	}
	if err := d.step("containerd", func() (string, error) { return d.startContainerd(ctx) }); err != nil {
		return err
	}
	d.out.block("", "ctr is "+d.ctr.path+" with "+d.ctr.env[0]+" "+d.ctr.env[1], dim)
	if err := d.step("listening to ctr events", func() (string, error) { return "", d.listen(ctx) }); err != nil {
		return err
	}
	args := []string{"image", "import", d.image.Archive}
	d.out.command(d.ctr.line(args))
	return d.step("image imported", func() (string, error) {
		_, err := d.ctr.quiet(ctx, args...) // it prints a progress bar, and our name without its hyphen
		return image.Ref, err
	})
}

func (d *demo) buildImage(ctx context.Context) (_ string, err error) {
	if d.image, err = image.Build(ctx, d.cacheDir, d.out.progress); err != nil {
		return "", err
	}
	from := "built"
	if d.image.Cached {
		from = "from the cache"
	}
	return fmt.Sprintf("Debian's nginx %s, %.1f MB, %s", d.image.Nginx, float64(d.image.Size)/1e6, from), nil
}

func (d *demo) startContainerd(ctx context.Context) (string, error) {
	server, err := d.server()
	if err != nil {
		return "", err
	}
	if d.daemon, err = harness.StartDaemon(ctx, harness.DaemonConfig{Server: server, BinDir: d.binDir}); err != nil {
		return "", err
	}
	d.ctr = newCtr(d.out, d.binDir, d.daemon.Address)
	if err := os.WriteFile(d.optionsFile(), []byte("Root = "+strconv.Quote(d.daemon.RuncRoot)+"\n"), 0o600); err != nil {
		return "", err
	}
	d.watch = harness.Watch{Daemons: []*harness.Daemon{d.daemon}, CgroupParents: []string{"/" + namespace}}
	if d.before, err = d.watch.TakeSnapshot(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, with its own root, state and sockets in %s", server.Name, d.daemon.Dir), nil
}

func (d *demo) server() (harness.Server, error) {
	for _, s := range harness.Servers(d.binDir) {
		if s.Name == "2.4" {
			return s, nil
		}
	}
	return harness.Server{}, fmt.Errorf("%s/containerd is not containerd 2.4: run `make build`", d.binDir)
}

// optionsFile is given to the runtime: runc's own state folder is global by default.
func (d *demo) optionsFile() string { return filepath.Join(d.daemon.Dir, "runtime.toml") }

// nginxLog is where the shim writes what nginx says.
func (d *demo) nginxLog() string { return filepath.Join(d.daemon.Dir, "nginx.log") }

// listen starts `ctr events`, which does not say when it is subscribed: so we cause events until it
// shows one.
func (d *demo) listen(ctx context.Context) (err error) {
	if _, err := d.ctr.quiet(ctx, "namespace", "create", namespace); err != nil {
		return err
	}
	if d.events, err = followEvents(ctx, d.ctr); err != nil {
		return err
	}
	tries := 0
	return harness.Poll(ctx, patience, "the first event", func() (bool, error) {
		seen, _, ended := d.events.look()
		if len(seen) > 0 || ended != nil {
			return true, ended
		}
		tries++
		_, err := d.ctr.quiet(ctx, "namespace", "label", namespace, "try="+strconv.Itoa(tries))
		return false, err
	})
}

// showEvidence prints what one looks at first when a step has failed.
func (d *demo) showEvidence() {
	if d.daemon == nil {
		return
	}
	d.out.chapter("What was seen")
	if d.events != nil {
		d.out.block("", fmt.Sprintf("the container's events: %v", topics(d.events.ofContainer())), plain)
	}
	d.out.block("", "end of the log of containerd and the shim:", plain)
	d.out.output(lastLines(withoutPlugins(d.daemon.Log()), 25))
	if log, err := os.ReadFile(d.nginxLog()); !errors.Is(err, os.ErrNotExist) {
		d.out.block("", "end of nginx's log:", plain)
		d.out.output(lastLines(string(log), 15))
	}
}

// withoutPlugins leaves out the hundred lines about plugins with which containerd begins.
func withoutPlugins(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `msg="loading plugin"`) && !strings.Contains(line, `msg="skip loading plugin"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
