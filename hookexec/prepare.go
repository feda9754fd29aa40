package hookexec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// prepareWait bounds Finish: the part of a preparation that needs the created container.
const prepareWait = 30 * time.Second

// Preparation writes the state that handlers of a container need. It begins in parallel
// with the container's creation, because compiling a seccomp profile takes about as long,
// and is finished when the container's init exists.
type Preparation struct {
	created *io.PipeWriter
	cancel  context.CancelCauseFunc
	// done is closed when the host has exited and err is set.
	done chan struct{}
	err  error
}

var (
	errSlowPreparation = errors.New("the preparation took longer than 30 s")
	errNotCreated      = errors.New("the container was not created")
)

// Prepare begins a preparation. The caller must call Finish or Cancel.
func (h *Host) Prepare(ctx context.Context, request wire.PrepareRequest) *Preparation {
	input, _ := json.Marshal(request) // strings can always be encoded
	ctx, cancel := context.WithCancelCause(ctx)
	init, created := io.Pipe()
	p := &Preparation{created: created, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer init.Close() // else a later Finish would block, because the pipe has no reader
		defer cancel(nil)
		p.err = h.run(ctx, wire.CommandPrepare, io.MultiReader(bytes.NewReader(input), init))
	}()
	return p
}

// Finish is called once, after the container's init was created and before the first
// handler. It returns when the state is written.
func (p *Preparation) Finish(init wire.Init) error {
	slow := time.AfterFunc(prepareWait, func() { p.cancel(errSlowPreparation) })
	defer slow.Stop()
	_ = json.NewEncoder(p.created).Encode(init) // it fails only if the host has exited
	_ = p.created.Close()                       // never fails
	<-p.done
	return p.err
}

// Cancel stops a preparation and waits for the host's exit. It does nothing after Finish.
func (p *Preparation) Cancel() {
	p.cancel(errNotCreated)
	_ = p.created.Close() // never fails
	<-p.done
}
