package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sync/semaphore"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// Paths of admission requests. Beside them there are /healthz and /readyz.
const (
	// Path moves handlers.
	Path = "/mutate"
	// ValidatePath refuses pods whose handlers have not been moved.
	ValidatePath = "/validate"
)

// memoryPerByte is what a byte of a request's body may cost while it is answered: the
// body, what is read of it, the patch, the answer, and what waits to be collected. A
// test measures it.
const memoryPerByte = 6

// GCPercent is what the process of a server should run the garbage collector with
// (runtime/debug.SetGCPercent), so that Limits.Memory holds garbage included.
const GCPercent = 50

// Limits bound what a client can cost.
type Limits struct {
	// Header is the time for a request's header, from the first byte of it.
	Header time.Duration
	// Request is the time for all of a request, from its beginning.
	Request time.Duration
	// Answer is the time for the answer, from the end of the header.
	Answer time.Duration
	// Idle is how long a connection is kept between requests.
	Idle time.Duration
	// Body in bytes. An API server takes 3 MiB (generic API server's
	// MaxRequestBodyBytes), and sends them as JSON, with the request's own fields.
	Body int64
	// Memory in bytes for all requests together, as estimated from their bodies.
	// Others wait.
	Memory int64
	// Wait is how long a request may wait for memory. Then the answer is 503, which
	// an API server takes as a webhook that does not answer.
	Wait time.Duration
	// Stop is how long requests that have begun may take when the server is
	// told to stop.
	Stop time.Duration
}

// DefaultLimits are far above what an API server needs, which gives up after 10 s
// (timeoutSeconds of the webhook's configuration) and is a machine next door.
func DefaultLimits() Limits {
	return Limits{
		Header: 5 * time.Second, Request: 10 * time.Second, Answer: 15 * time.Second, Idle: 2 * time.Minute,
		Body: 8 << 20, Memory: 48 << 20, Wait: 4 * time.Second, Stop: 15 * time.Second,
	}
}

// Config of a server. All fields are needed.
type Config struct {
	CertFile, KeyFile string // PEM
	RuntimeClass      string
	Limits            Limits
}

// Server answers an API server.
type Server struct {
	config      Config
	certificate *certificate
	memory      *semaphore.Weighted // of Limits.Memory
	stopping    atomic.Bool
}

// New fails where there is no certificate to serve with.
func New(config Config) (*Server, error) {
	certificate, err := openCertificate(config.CertFile, config.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("the webhook speaks TLS only, and needs a certificate: %w", err)
	}
	return newServer(config, certificate), nil
}

func newServer(config Config, certificate *certificate) *Server {
	return &Server{config: config, certificate: certificate, memory: semaphore.NewWeighted(config.Limits.Memory)}
}

// Serve answers until ctx ends, and then until the requests that have begun have
// been answered. It closes the listener. The error says what ended it before, or which
// requests were cut off.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	limits := s.config.Limits
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: limits.Header, ReadTimeout: limits.Request, WriteTimeout: limits.Answer, IdleTimeout: limits.Idle,
		MaxHeaderBytes: 64 << 10,
		TLSConfig:      &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate.get},
		ErrorLog:       stdlog.New(toLog{}, "", 0),
	}
	ended := make(chan error, 1) // one send, also when nobody waits
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	log.L.WithField("address", listener.Addr().String()).WithField("runtimeClass", s.config.RuntimeClass).Info("serving")
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	log.L.WithField("limit", limits.Stop.String()).Info("stopping: requests that have begun are answered")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), limits.Stop)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		_ = server.Close() // what is left has had its time
		return fmt.Errorf("requests were cut off %s after the stop: %w", limits.Stop, err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, s.review(mutate))
	mux.HandleFunc("POST "+ValidatePath, s.review(validate))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	return mux
}

// ready is about new requests: none should come when the server stops, or while
// clients cannot trust it.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	err := s.certificate.valid(time.Now())
	switch {
	case s.stopping.Load():
		say(w, http.StatusServiceUnavailable, "stopping")
	case err != nil:
		say(w, http.StatusServiceUnavailable, err.Error())
	default:
		say(w, http.StatusOK, "ok")
	}
}

// review answers the requests of one door. Its context ends when the client goes, or
// its time is up.
func (s *Server) review(through door) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), s.config.Limits.Answer)
		defer cancel()
		body, release, failed := s.read(ctx, w, r)
		defer release()
		if failed != nil {
			say(w, failed.code, failed.text)
			return
		}
		asked, err := decodeReview(body)
		if err != nil {
			say(w, http.StatusBadRequest, err.Error())
			return
		}
		response, result, err := through(ctx, asked.Request, s.config.RuntimeClass)
		if err != nil {
			log.L.WithError(err).WithField("uid", asked.Request.UID).Debug("the client did not wait for its answer")
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		note(asked.Request, response, result, time.Since(began))
		answered := admissionv1.AdmissionReview{TypeMeta: asked.TypeMeta, Response: response}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answered); err != nil {
			log.L.WithError(err).Debug("the client did not wait for its answer")
		}
	}
}

// failure of a request that is not answered.
type failure struct {
	code int
	text string
}

// read returns the body, for which there is memory until release is called.
func (s *Server) read(ctx context.Context, w http.ResponseWriter, r *http.Request) (body []byte, release func(), failed *failure) {
	release = func() {}
	limits := s.config.Limits
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, release, &failure{http.StatusUnsupportedMediaType, "application/json is expected"}
	}
	length := r.ContentLength
	if length < 0 { // it does not say
		length = limits.Body
	}
	if length > limits.Body {
		return nil, release, &failure{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limits.Body)}
	}
	wait, cancel := context.WithTimeout(ctx, limits.Wait)
	defer cancel()
	weight := min(length*memoryPerByte, limits.Memory)
	if err := s.memory.Acquire(wait, weight); err != nil {
		log.L.WithField("length", length).Warn("a request was refused, as others need all the memory")
		return nil, release, &failure{http.StatusServiceUnavailable, fmt.Sprintf("other requests need all the memory; %s was waited for it", limits.Wait)}
	}
	release = func() { s.memory.Release(weight) }
	var buffer bytes.Buffer
	buffer.Grow(int(length) + bytes.MinRead) // once: growing would leave garbage of the same size
	_, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, limits.Body))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, release, &failure{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	}
	if err != nil { // the client has gone, or takes too long
		return nil, release, &failure{http.StatusBadRequest, shorten.End(err.Error(), maxID)}
	}
	return buffer.Bytes(), release, nil
}

// note writes one line for each request; nothing of the pod's values, which may
// hold secrets, but for what is refused.
func note(asked *request, response *admissionv1.AdmissionResponse, result string, took time.Duration) {
	entry := log.L.WithField("uid", asked.UID).WithField("namespace", shorten.End(asked.Namespace, maxID)).WithField("name", shorten.End(asked.Name, maxID)).
		WithField("user", shorten.End(asked.UserInfo.Username, maxID)).WithField("result", result).WithField("took", took.String())
	switch {
	case !response.Allowed:
		entry.WithField("why", response.Result.Message).Warn("pod refused")
	case len(response.Warnings) > 0:
		entry.WithField("warnings", response.Warnings).Warn("pod admitted")
	case response.Patch == nil:
		entry.Debug("pod admitted")
	default:
		entry.Info("pod admitted")
	}
}

func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n") // whoever does not wait for it does not want it
}

// toLog takes the lines of net/http: broken handshakes, mostly of probes.
type toLog struct{}

func (toLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "panic serving") {
		log.L.Error(text)
	} else {
		log.L.Debug(text)
	}
	return len(line), nil
}
