package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/certs"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/webhook"
)

// manage serves with certificates that the replicas make.
func (s *serving) manage(ctx context.Context) error {
	holder := &certs.Holder{}
	changed := make(chan struct{}, 1) // one note is enough: the keeper reads everything anew
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	keeper := &certs.Keeper{Cluster: &s.kube, Settings: s.settings, Changed: changed}
	return s.serve(ctx, holder, func(ctx, whileServing context.Context) error {
		var group errgroup.Group
		group.Go(func() error { // also while the server stops: a certificate may be renewed meanwhile
			s.kube.WatchSecret(whileServing, func(data map[string][]byte) {
				holder.Take(data, time.Now())
				note()
			})
			return nil
		})
		group.Go(func() error {
			return s.kube.Lead(ctx, s.lease, func(ctx context.Context) {
				var watching errgroup.Group
				watching.Go(func() error {
					s.kube.WatchConfigurations(ctx, note)
					return nil
				})
				keeper.Run(ctx)
				_ = watching.Wait() // it returns no error
			})
		})
		return group.Wait()
	})
}

// serve returns when the server has ended, and with it everything else. beside, if any, gets
// a context that ends with the first signal, and one that ends with the server.
func (s *serving) serve(ctx context.Context, certificates webhook.Certificates, beside func(ctx, whileServing context.Context) error) error {
	s.config.Certificates = certificates
	server := webhook.New(s.config)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	whileServing, ended := context.WithCancel(context.WithoutCancel(ctx))
	defer ended()
	group, until := errgroup.WithContext(ctx) // the first that fails ends the others, in order
	if s.healthListen != "" {
		health, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.healthListen)
		if err != nil {
			return fmt.Errorf("--health-listen: %w", err)
		}
		group.Go(func() error { return s.health(whileServing, server.Health(), health) })
	}
	if beside != nil {
		group.Go(func() error { return beside(until, whileServing) })
	}
	group.Go(func() error {
		defer ended()
		return server.Serve(until, listener)
	})
	return group.Wait()
}

// health serves until ctx ends.
func (s *serving) health(ctx context.Context, handler http.Handler, listener net.Listener) error {
	limits := s.config.Limits
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: limits.Header, ReadTimeout: limits.Request, WriteTimeout: limits.Answer, IdleTimeout: limits.Idle,
		MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // probes only: none has to be answered
	defer stop()
	log.L.WithField("address", listener.Addr().String()).Info("serving health")
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("--health-listen: %w", err)
	}
	return nil
}
