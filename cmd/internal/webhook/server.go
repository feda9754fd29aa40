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

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// Paths of admission requests. The server also has /healthz and /readyz.
const (
	// Path moves handlers.
	Path = "/mutate"
	// ValidatePath refuses pods whose handlers were not moved.
	ValidatePath = "/validate"
)

// memoryPerByte is the memory per byte of a request's body while it is answered: for the
// body, the decoded values, the patch, the answer and garbage. A test measures it.
const memoryPerByte = 6

// GCPercent is the setting of the garbage collector (runtime/debug.SetGCPercent) with which
// Limits.Memory includes garbage. The process that runs the server has to set it.
const GCPercent = 50

// Limits bound the time and memory that a client can use.
type Limits struct {
	// Header is the time for a request's header, from its first byte.
	Header time.Duration
	// Request is the time for the whole request, from its first byte.
	Request time.Duration
	// Answer is the time for the answer, from the end of the header.
	Answer time.Duration
	// Idle is how long a connection is kept between requests.
	Idle time.Duration
	// Body is the size of a request's body in bytes. An API server accepts objects of
	// 3 MiB (generic API server's MaxRequestBodyBytes) and sends them as JSON, with the
	// fields of the request.
	Body int64
	// Memory is in bytes, for all requests together, as estimated from their bodies. If it
	// is used up, further requests wait.
	Memory int64
	// Wait is how long a request may wait for memory. After that the answer is 503, which
	// an API server treats like no answer.
	Wait time.Duration
	// Linger is how long the server, after its context ends, still takes requests while it
	// is not ready: until those that send requests have learned that it will be gone.
	Linger time.Duration
	// Stop is how long requests that have begun may take after that.
	Stop time.Duration
}

// DefaultLimits are far above the needs of an API server, which is on the same network and
// gives up after 10 s (timeoutSeconds of the webhook's configuration).
func DefaultLimits() Limits {
	return Limits{
		Header: 5 * time.Second, Request: 10 * time.Second, Answer: 15 * time.Second, Idle: 2 * time.Minute,
		Body: 8 << 20, Memory: 48 << 20, Wait: 4 * time.Second, Stop: 15 * time.Second,
	}
}

// Config configures a server. All fields are required, except HandlerLimits.
type Config struct {
	Certificates Certificates
	RuntimeClass string
	// HandlerLimits are the operator's, for the handlers of pods.
	HandlerLimits oci.Limits
	Limits        Limits
}

// Server answers an API server.
type Server struct {
	config   Config
	memory   *semaphore.Weighted // of Limits.Memory
	stopping atomic.Bool
}

// New returns a server, which does nothing until Serve is called.
func New(config Config) *Server {
	return &Server{config: config, memory: semaphore.NewWeighted(config.Limits.Memory)}
}

// Serve answers requests until ctx ends. From then on it is not ready. After Limits.Linger it
// takes no more requests, and waits until those that have begun are answered, for at most
// Limits.Stop. It returns an error if the server stops before ctx ends, or if it has to abort
// requests.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	limits := s.config.Limits
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: limits.Header, ReadTimeout: limits.Request, WriteTimeout: limits.Answer, IdleTimeout: limits.Idle,
		MaxHeaderBytes: 64 << 10,
		TLSConfig:      &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.config.Certificates.Get},
		ErrorLog:       stdlog.New(toLog{}, "", 0),
	}
	ended := make(chan error, 1) // one send, which must not block after Serve has returned
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	log.L.WithField("address", listener.Addr().String()).WithField("runtimeClass", s.config.RuntimeClass).Info("serving")
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	if err := s.linger(ended); err != nil {
		return err
	}
	log.L.WithField("limit", limits.Stop.String()).Info("stopping: requests that have begun are answered")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), limits.Stop)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		_ = server.Close() // aborts the remaining requests
		return fmt.Errorf("cannot answer all requests that had begun: they were aborted %s after the stop: %w", limits.Stop, err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// linger still takes requests for Limits.Linger. It returns early if the server ends by
// itself.
func (s *Server) linger(ended <-chan error) error {
	if s.config.Limits.Linger <= 0 {
		return nil
	}
	log.L.WithField("limit", s.config.Limits.Linger.String()).Info("no longer ready: requests are still taken")
	timer := time.NewTimer(s.config.Limits.Linger)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return nil
	}
}

func (s *Server) handler() http.Handler {
	mux := s.health()
	mux.HandleFunc("POST "+Path, s.review(mutate))
	mux.HandleFunc("POST "+ValidatePath, s.review(validate))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.stopping.Load() {
			// The client sends its next request on a new connection, perhaps to another replica. If the connection
			// stayed, its end could meet a request that is just being sent.
			w.Header().Set("Connection", "close")
		}
		mux.ServeHTTP(w, r)
	})
}

// Health serves /healthz and /readyz only, for a listener without TLS: while there is no
// certificate yet, nothing can be asked through TLS.
func (s *Server) Health() http.Handler { return s.health() }

func (s *Server) health() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	return mux
}

// ready reports whether new requests should be sent: not while the server stops, nor while
// clients cannot trust its certificate.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	err := s.config.Certificates.Valid(time.Now())
	switch {
	case s.stopping.Load():
		say(w, http.StatusServiceUnavailable, "stopping")
	case err != nil:
		say(w, http.StatusServiceUnavailable, err.Error())
	default:
		say(w, http.StatusOK, "ok")
	}
}

// review answers the requests of one door. Their context ends when the client disconnects
// or after Limits.Answer.
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
		response, result, err := through(ctx, asked.Request, convert.Rules{RuntimeClass: s.config.RuntimeClass, Limits: s.config.HandlerLimits})
		if err != nil {
			log.L.WithError(err).WithField("uid", asked.Request.UID).Debug("cannot answer: the client has disconnected or its time is up")
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		note(asked.Request, response, result, time.Since(began))
		answered := admissionv1.AdmissionReview{TypeMeta: asked.TypeMeta, Response: response}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answered); err != nil {
			log.L.WithError(err).Debug("cannot send the answer: the client has disconnected")
		}
	}
}

// failure is the HTTP answer to a request that is not reviewed.
type failure struct {
	code int
	text string
}

// read returns the body, whose memory is reserved until release is called.
func (s *Server) read(ctx context.Context, w http.ResponseWriter, r *http.Request) (body []byte, release func(), failed *failure) {
	release = func() {}
	limits := s.config.Limits
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, release, &failure{http.StatusUnsupportedMediaType, "application/json is expected"}
	}
	length := r.ContentLength
	if length < 0 { // the header is missing
		length = limits.Body
	}
	if length > limits.Body {
		return nil, release, &failure{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", limits.Body)}
	}
	wait, cancel := context.WithTimeout(ctx, limits.Wait)
	defer cancel()
	weight := min(length*memoryPerByte, limits.Memory)
	if err := s.memory.Acquire(wait, weight); err != nil {
		log.L.WithField("length", length).Warn("cannot answer a request, because other requests use all the memory: the client gets 503")
		return nil, release, &failure{http.StatusServiceUnavailable, fmt.Sprintf("other requests use all the memory, and none became free within %s", limits.Wait)}
	}
	release = func() { s.memory.Release(weight) }
	var buffer bytes.Buffer
	buffer.Grow(int(length) + bytes.MinRead) // once: growing in steps would leave garbage of the same size
	_, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, limits.Body))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, release, &failure{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	}
	if err != nil { // the client has disconnected or takes too long
		return nil, release, &failure{http.StatusBadRequest, shorten.End(err.Error(), maxID)}
	}
	return buffer.Bytes(), release, nil
}

// note logs one line for each request. It logs no values of the pod, which may be secret,
// except those in a refusal.
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
	_, _ = io.WriteString(w, text+"\n") // fails only if the client has disconnected
}

// toLog logs the errors of net/http, mostly broken handshakes of probes.
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
