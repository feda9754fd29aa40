package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// stuckAfter is the age of the last sign of life that makes /healthz fail: twice as long as the longest step.
const stuckAfter = 2 * installLimit

// Health is what /healthz and /readyz answer. It is safe for concurrent use.
type Health struct {
	mu    sync.Mutex
	alive time.Time
	ready bool
	text  string
}

// NewHealth is alive and not ready.
func NewHealth() *Health { return &Health{alive: time.Now(), text: "starting"} }

func (h *Health) beat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alive = time.Now()
}

func (h *Health) set(ready bool, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready, h.text = ready, shorten.Middle(shorten.OneLine(text), maxNote)
}

// Handler answers probes.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		age := time.Since(h.alive)
		h.mu.Unlock()
		reply(w, age < stuckAfter, fmt.Sprintf("last step %s ago", age.Round(time.Second)))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		ready, text := h.ready, h.text
		h.mu.Unlock()
		reply(w, ready, text)
	})
	return mux
}

func reply(w http.ResponseWriter, ok bool, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, text+"\n") // fails only if the client has disconnected
}

// Serve answers until ctx ends.
func (h *Health) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: h.Handler(), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot answer probes: %w", err)
	}
	return nil
}
