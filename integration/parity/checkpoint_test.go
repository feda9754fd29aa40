package parity

import (
	"context"
	"os"
	"path/filepath"
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

// checkpoint the container, with options or without. Through containerd it goes to the content store, where none of the
// options says otherwise; at the socket the request names a directory.
func (c *container) checkpoint(with *options.CheckpointOptions) proto.Message {
	c.p.Helper()
	request := &taskapi.CheckpointTaskRequest{ID: c.id}
	if c.p.way == bySocket {
		request.Path = filepath.Join(c.p.dir, "checkpoint of "+c.id)
		c.p.must(os.MkdirAll(request.Path, 0o700))
	}
	if with != nil {
		encoded, err := typeurl.MarshalAnyToProto(with)
		c.p.must(err)
		request.Options = encoded
	}
	response, _ := c.do(c.label("Checkpoint", ""), request)
	return response
}

// keep what is stored from now on, until the end.
func (p *program) keep() {
	p.Helper()
	ctx := p.client.Context(p.Context())
	manager := p.client.LeasesService()
	lease, err := manager.Create(ctx, leases.WithRandomID())
	p.must(err)
	p.Cleanup(func() {
		if err := manager.Delete(p.client.Context(context.Background()), lease); err != nil {
			p.Error(err)
		}
	})
	p.lease = lease.ID
	p.api = daemonAPI{p.client, p.lease}
}

// stored is the checkpoint among what containerd has put into its content store.
func stored(response proto.Message) *types.Descriptor {
	if r, ok := response.(*tasks.CheckpointTaskResponse); ok {
		for _, d := range r.GetDescriptors() {
			if d.MediaType == images.MediaTypeContainerd1Checkpoint {
				return d
			}
		}
	}
	return nil
}

var checkpointScenarios = []scenario{
	{name: "checkpoint", about: "the container continues, and is restored from it when it has ended: its process, its state, its events", only: runcOnly, ways: []way{byDaemon}, program: func(p *program) {
		p.keep()
		c := p.run("a", obedient)
		c.ready()
		response := c.checkpoint(nil)
		c.state()
		c.kill(syscall.SIGTERM)
		c.wait()
		c.delete()
		checkpoint := stored(response)
		if checkpoint == nil {
			p.Fatalf("%s: no checkpoint\n%v", p.side.name, p.report)
		}
		for range 2 {
			if !c.createWith(&tasks.CreateTaskRequest{Checkpoint: checkpoint}) {
				return
			}
			c.state()
			c.kill(syscall.SIGHUP)
			c.start()
			c.state()
			c.pids()
			c.kill(syscall.SIGTERM)
			c.wait()
			c.delete()
		}
	}},
	{name: "checkpoint and exit", about: "the container ends with it; and restored, it can be executed in, paused and killed", only: runcOnly, ways: []way{byDaemon}, program: func(p *program) {
		p.keep()
		c := p.run("a", obedient)
		c.ready()
		response := c.checkpoint(&options.CheckpointOptions{Exit: true})
		c.wait()
		c.state()
		c.delete()
		checkpoint := stored(response)
		if checkpoint == nil {
			p.Fatalf("%s: no checkpoint\n%v", p.side.name, p.report)
		}
		if !c.createWith(&tasks.CreateTaskRequest{Checkpoint: checkpoint}) {
			return
		}
		c.exec("early", command("true"))
		c.start()
		c.exec("e", command(exits("3")...))
		if c.start("e") {
			c.wait("e")
		}
		c.pause()
		c.state()
		c.resume()
		c.kill(syscall.SIGKILL)
		c.wait()
		c.delete()
	}},
	{name: "checkpoint at the shim", about: "into a directory; of a created and an exited container; into one that cannot be", only: runcOnly, ways: []way{bySocket}, program: func(p *program) {
		c := p.container("a", obedient)
		c.create()
		c.checkpoint(nil)
		c.start()
		c.ready()
		c.checkpoint(&options.CheckpointOptions{ImagePath: "/proc/none", WorkPath: p.dir})
		c.checkpoint(&options.CheckpointOptions{WorkPath: p.dir, FileLocks: true})
		c.state()
		images, _ := filepath.Glob(filepath.Join(p.dir, "checkpoint of "+c.id, "core-*.img"))
		p.note("images: %t", len(images) > 0)
		c.kill(syscall.SIGTERM)
		c.wait()
		c.checkpoint(nil)
	}},
}
