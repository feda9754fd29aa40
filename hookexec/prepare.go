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

// prepareWait bounds what a preparation still does once the container is there.
const prepareWait = 30 * time.Second

// Preparation derives the state that handlers of a container need. It begins beside
// the container's creation, because a seccomp profile takes as long as that, and is
// finished with the container's init.
type Preparation struct {
	created *io.PipeWriter
	cancel  context.CancelCauseFunc
	// done is closed when it has ended, with err.
	done chan struct{}
	err  error
}

var (
	errSlowPreparation = errors.New("it has not ended in 30 s")
	errNotCreated      = errors.New("the container was not created")
)

// Prepare begins a preparation. It is to be finished, or cancelled.
func (h *Host) Prepare(ctx context.Context, request wire.PrepareRequest) (*Preparation, error) {
	input, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	init, created := io.Pipe()
	p := &Preparation{created: created, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer init.Close() // a Finish that comes later does not wait for a reader
		defer cancel(nil)
		p.err = h.run(ctx, wire.CommandPrepare, io.MultiReader(bytes.NewReader(input), init))
	}()
	return p, nil
}

// Finish is called once, when the container's init is there and before a handler is
// run. It returns when the state is written.
func (p *Preparation) Finish(init wire.Init) error {
	slow := time.AfterFunc(prepareWait, func() { p.cancel(errSlowPreparation) })
	defer slow.Stop()
	_ = json.NewEncoder(p.created).Encode(init) // it fails only if the preparation has ended
	_ = p.created.Close()                       // never fails
	<-p.done
	return p.err
}

// Cancel ends a preparation. One that has ended is left alone.
func (p *Preparation) Cancel() {
	p.cancel(errNotCreated)
	_ = p.created.Close() // never fails
	<-p.done
}
