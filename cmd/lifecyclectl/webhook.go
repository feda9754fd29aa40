package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"

	"github.com/containerd/log"
	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/webhook"
)

// serving holds the values of webhook's flags.
type serving struct {
	config              webhook.Config
	certFile, keyFile   string
	listen              string
	logFormat, logLevel string
}

func newWebhook() *cobra.Command {
	s := &serving{config: webhook.Config{Limits: webhook.DefaultLimits()}}
	command := &cobra.Command{
		Use:   "webhook --tls-cert-file FILE --tls-private-key-file FILE",
		Short: "Serve convert as a mutating admission webhook, for clusters before Kubernetes 1.36",
		Long: fmt.Sprintf(`Serve convert as a mutating admission webhook (admission.k8s.io/v1), for clusters before Kubernetes 1.36.
Later clusters need no server: they have MutatingAdmissionPolicy.

When a pod is created with the runtime class of this shim, the webhook moves its handlers into annotations, as
"lifecyclectl convert" does. It refuses the pods that convert refuses, with the same text. kubectl shows its warnings.

POST %s receives AdmissionReviews and moves handlers. POST %s receives them after all plugins have changed the pod, and refuses pods of
this class whose handlers were not moved, because the kubelet would run them. /healthz reports whether the process answers. /readyz reports whether
requests should be sent: not while the webhook stops, nor with an expired certificate. It serves TLS only. It reads the certificate's files at each
handshake: replace them to renew it. A request may have %d MiB and take %s. After SIGTERM or ^C, requests that have begun are still answered.
One line is logged for each pod that is changed or refused.`, webhook.Path, webhook.ValidatePath, s.config.Limits.Body>>20, s.config.Limits.Request),
		Example: `  lifecyclectl webhook --tls-cert-file /certs/tls.crt --tls-private-key-file /certs/tls.key
  lifecyclectl webhook --listen 127.0.0.1:8443 --runtime-class my-lifecycle --log-format json --tls-cert-file c.pem --tls-private-key-file k.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	flags := command.Flags()
	flags.StringVar(&s.listen, "listen", ":8443", "address and port to listen on; without an address, on all addresses")
	flags.StringVar(&s.certFile, "tls-cert-file", "", "the server's certificate and its intermediate authorities, in PEM")
	flags.StringVar(&s.keyFile, "tls-private-key-file", "", "the certificate's key, in PEM")
	flags.StringVar(&s.config.RuntimeClass, "runtime-class", convert.DefaultRuntimeClass, "name of the RuntimeClass whose handler is this shim")
	convert.AddLimits(flags, &s.config.HandlerLimits)
	flags.DurationVar(&s.config.Limits.Stop, "shutdown-timeout", s.config.Limits.Stop, "how long requests that have begun may still take when the webhook stops")
	flags.StringVar(&s.logFormat, "log-format", string(log.TextFormat), "text or json")
	flags.StringVar(&s.logLevel, "log-level", log.InfoLevel.String(), "debug logs every request, info the pods that are changed, warn those that are refused")
	for _, name := range []string{"tls-cert-file", "tls-private-key-file"} {
		_ = command.MarkFlagRequired(name) // fails only for an unknown flag
		_ = command.MarkFlagFilename(name, "pem", "crt", "key")
	}
	_ = command.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = command.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	return command
}

func (s *serving) run(ctx context.Context) error {
	if s.config.RuntimeClass == "" {
		return errors.New("--runtime-class is empty: give the name of a RuntimeClass, such as lifecycle")
	}
	if s.logFormat != string(log.TextFormat) && s.logFormat != string(log.JSONFormat) {
		return fmt.Errorf("--log-format %q is not known: use text or json", s.logFormat)
	}
	if err := errors.Join(log.SetFormat(log.OutputFormat(s.logFormat)), log.SetLevel(s.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	certificates, err := webhook.Files(s.certFile, s.keyFile)
	if err != nil {
		return err
	}
	s.config.Certificates = certificates
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	debug.SetGCPercent(webhook.GCPercent)
	return webhook.New(s.config).Serve(ctx, listener)
}
