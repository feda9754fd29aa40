package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// isShim recognizes a shim by the file name of its program. This does not need
// containerd, which may be the part that does not answer.
func isShim(program string) bool { return program == doctor.ShimBinary }

// answerWithin bounds a call to a shim. A shim answers at once or not at all.
const answerWithin = 2 * time.Second

// shimProcess is a running shim.
type shimProcess struct {
	pid                int
	namespace, address string
	// sockets that it listens on. One of them is the socket of its service.
	sockets []string
	// elsewhere is set if it is in another network namespace, so that its sockets cannot
	// be listed.
	elsewhere bool
}

// findShims lists the node's shims: see package trust for which processes are trusted.
func findShims(o *options) ([]shimProcess, error) {
	processes, err := trust.Find(isShim)
	if err != nil {
		return nil, err
	}
	sockets, err := trust.ReadSockets() // after Find, so that the sockets of all processes are in the table
	if err != nil {
		return nil, err
	}
	var found []shimProcess
	for _, process := range processes {
		shim, ok := readShim(process, sockets)
		if ok && (o.namespace == "" || o.namespace == shim.namespace) && (o.address == "" || sameSocket(o.address, shim.address)) {
			found = append(found, shim)
		}
	}
	return found, nil
}

// sameSocket also accepts different paths of one socket, such as in /var/run and /run.
func sameSocket(a, b string) bool {
	if a == b {
		return true
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// readShim returns false for a process that does not serve: one that starts or deletes a
// container, or that has exited.
func readShim(process *trust.Process, sockets trust.Sockets) (shimProcess, bool) {
	words := process.Args
	action := words[len(words)-1] // a shim that serves has no action
	if action == "start" || action == "delete" {
		return shimProcess{}, false
	}
	shim := shimProcess{
		pid: process.PID, namespace: process.Flag("namespace"), address: process.Flag("address"),
		sockets: sockets.ListenedBy(process), elsewhere: process.OtherNetwork,
	}
	return shim, shim.elsewhere || len(shim.sockets) > 0
}

// shim is a shim that has answered.
type shim struct {
	shimProcess
	client     *ttrpc.Client
	containers []*lifecyclev1.ContainerStatus
	// process is nil if the shim's build does not report it.
	process *lifecyclev1.Process
	// cut and leftOut are as in StatusResponse.
	cut     bool
	leftOut uint32
}

// limits returns an error if the shim's answer was not complete.
func (s *shim) limits() error {
	switch {
	case s.leftOut > 0:
		return fmt.Errorf("cannot show all containers of shim %d: its answer left out %d; name one by its whole id", s.pid, s.leftOut)
	case s.cut:
		return fmt.Errorf("cannot show all texts of shim %d: its answer shortened long ones; name one container by its whole id", s.pid)
	}
	return nil
}

// add asks for one container by its id if the answer was not complete.
func (s *shim) add(ctx context.Context, id string) error {
	if id == "" || s.limits() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	response, err := askStatus(ctx, s.client, id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	s.containers, s.cut, s.leftOut = response.Containers, response.Cut, response.LeftOut
	return nil
}

func (s *shim) service() lifecyclev1.LifecycleService {
	return lifecyclev1.NewLifecycleClient(s.client)
}

// ask connects to a shim and asks for its containers. It asks on all sockets at once,
// because a socket of another service (a shim with debugging has one) never answers.
func (p shimProcess) ask(ctx context.Context) (*shim, error) {
	if p.elsewhere {
		return nil, fmt.Errorf("cannot ask shim %d, which runs in another network namespace: run lifecyclectl there (nsenter --net --target %d lifecyclectl …)", p.pid, p.pid)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	type answer struct {
		shim *shim
		err  error
	}
	answers := make(chan answer, len(p.sockets))
	for _, socket := range p.sockets {
		go func() {
			s, err := p.askOn(ctx, socket)
			answers <- answer{s, err}
		}()
	}
	var errs []error
	for range p.sockets {
		a := <-answers
		if a.err == nil {
			return a.shim, nil // the other calls end with ctx: only one socket is the service's
		}
		if status.Code(a.err) == codes.Unimplemented {
			return nil, fmt.Errorf("cannot show the containers of shim %d: its build has no status service; its handlers are not affected, and new pods use the new build", p.pid)
		}
		errs = append(errs, a.err)
	}
	return nil, fmt.Errorf("cannot show the containers of shim %d, which does not answer: %w", p.pid, errors.Join(errs...))
}

func (p shimProcess) askOn(ctx context.Context, socket string) (*shim, error) {
	conn, _, err := trust.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	return p.askOver(ctx, conn)
}

// askOver asks over a connection, which it closes on error.
func (p shimProcess) askOver(ctx context.Context, conn net.Conn) (*shim, error) {
	s := &shim{shimProcess: p, client: ttrpc.NewClient(conn)}
	response, err := askStatus(ctx, s.client, "")
	if err != nil {
		_ = s.client.Close()
		return nil, err
	}
	s.containers, s.process, s.cut, s.leftOut = response.Containers, response.Shim, response.Cut, response.LeftOut
	return s, nil
}

// errRootOnly is returned to other users than root. They may not see which program a process
// runs, nor connect to a shim, so for them there would seem to be no shims.
var errRootOnly = errors.New("cannot ask the shims, which answer only root: run this as root")

// askAll asks all shims at once, so that one that does not answer does not delay the
// others. If id is not empty and an answer was not complete, it asks for that container
// alone. silent has the errors of the shims that did not answer.
func askAll(ctx context.Context, o *options, id string) (shims []*shim, silent error) {
	found, err := findShims(o)
	if err != nil {
		return nil, err
	}
	answers := make([]*shim, len(found))
	errs := make([]error, len(found))
	var all sync.WaitGroup
	for i, process := range found {
		all.Go(func() {
			if answers[i], errs[i] = process.ask(ctx); errs[i] == nil {
				errs[i] = answers[i].add(ctx, id)
			}
		})
	}
	all.Wait()
	return slices.DeleteFunc(answers, func(s *shim) bool { return s == nil }), errors.Join(errs...)
}

func closeAll(shims []*shim) {
	for _, s := range shims {
		_ = s.client.Close()
	}
}

// one finds the container with that id, or the only one whose id has that prefix.
func one(ctx context.Context, o *options, id string) (*shim, *lifecyclev1.ContainerStatus, error) {
	if os.Geteuid() != 0 {
		return nil, nil, errRootOnly
	}
	shims, silent := askAll(ctx, o, id)
	type match struct {
		shim      *shim
		container *lifecyclev1.ContainerStatus
	}
	var matches []match
	for _, s := range shims {
		for _, container := range s.containers {
			if container.Id == id {
				return s, container, nil
			}
			if strings.HasPrefix(container.Id, id) {
				matches = append(matches, match{s, container})
			}
		}
	}
	switch {
	case len(matches) == 1:
		return matches[0].shim, matches[0].container, nil
	case len(matches) > 1:
		return nil, nil, fmt.Errorf("%q is the prefix of %d ids, such as %s and %s: give more of the id", id, len(matches), matches[0].container.Id, matches[1].container.Id)
	}
	return nil, nil, errors.Join(o.noSuch(id), silent)
}

func (o *options) noSuch(id string) error {
	return fmt.Errorf("cannot find a container %q with handlers%s: `lifecyclectl status` lists them all", id, o.where())
}

// where describes what the flags or the environment restrict the search to.
func (o *options) where() string {
	text := ""
	if o.namespace != "" {
		text += fmt.Sprintf(" in the namespace %q", o.namespace)
	}
	if o.address != "" {
		text += fmt.Sprintf(" of the containerd at %s", o.address)
	}
	return text
}
