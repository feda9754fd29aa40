package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/certs"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/webhook"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// serving holds the values of the flags.
type serving struct {
	config               webhook.Config
	listen, healthListen string
	certFile, keyFile    string
	kubeconfig           string
	kube                 certs.Kube
	settings             certs.Settings
	lease                certs.Lease
	logFormat, logLevel  string
}

func newCommand() *cobra.Command {
	s := &serving{config: webhook.Config{Limits: webhook.DefaultLimits()}}
	command := &cobra.Command{
		Use:   "lifecycle-webhook --namespace NAMESPACE --service-names NAME,...",
		Short: "The admission webhook of lifecycle-shim, as it runs in a cluster",
		Long: `The admission webhook of lifecycle-shim, as it runs in a cluster: it moves the lifecycle handlers of pods into annotations,
as "lifecyclectl webhook" does beside an API server.

It makes its own certificates. They are in one Secret, which every replica watches; the replica that holds the Lease writes it, and
writes the authority into the caBundle of the two webhook configurations. It renews the certificate and the authority in time, so that no
call fails meanwhile. With --tls-cert-file and --tls-private-key-file (cert-manager's, for example) it manages nothing and calls no API server.

/readyz reports whether requests should be sent: not before there is a certificate, nor with an expired one, nor while the webhook stops.
After SIGTERM it is not ready, still takes requests for --shutdown-delay, and then answers those that have begun.`,
		Example: `  lifecycle-webhook --namespace lifecycle-shim --service-names lifecycle-shim-webhook,lifecycle-shim-webhook-0,lifecycle-shim-webhook-1
  lifecycle-webhook --tls-cert-file /certs/tls.crt --tls-private-key-file /certs/tls.key`,
		Version: version.Version,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },

		SilenceUsage: true, SilenceErrors: true,
	}
	s.serverFlags(command.Flags())
	s.certificateFlags(command.Flags())
	command.MarkFlagsRequiredTogether("tls-cert-file", "tls-private-key-file")
	command.MarkFlagsOneRequired("tls-cert-file", "namespace")
	command.MarkFlagsMutuallyExclusive("tls-cert-file", "namespace")
	return command
}

func (s *serving) serverFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.listen, "listen", ":8443", "address and port to listen on, for TLS")
	flags.StringVar(&s.healthListen, "health-listen", ":8080", "address and port for /healthz and /readyz without TLS; empty: only with TLS")
	flags.StringVar(&s.config.RuntimeClass, "runtime-class", convert.DefaultRuntimeClass, "name of the RuntimeClass whose handler is this shim")
	convert.AddLimits(flags, &s.config.HandlerLimits)
	flags.DurationVar(&s.config.Limits.Linger, "shutdown-delay", 10*time.Second, "how long requests are still taken after SIGTERM, until no more are sent here")
	flags.DurationVar(&s.config.Limits.Stop, "shutdown-timeout", s.config.Limits.Stop, "how long requests that have begun may still take after that")
	flags.StringVar(&s.logFormat, "log-format", string(log.TextFormat), "text or json")
	flags.StringVar(&s.logLevel, "log-level", log.InfoLevel.String(), "debug logs every request, info the pods that are changed, warn those that are refused")
	flags.StringVar(&s.certFile, "tls-cert-file", "", "a certificate in PEM that another program manages")
	flags.StringVar(&s.keyFile, "tls-private-key-file", "", "the certificate's key, in PEM")
}

func (s *serving) certificateFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.kube.Namespace, "namespace", "", "namespace of the Secret and the Lease")
	flags.StringVar(&s.kube.Secret, "secret", "lifecycle-shim-webhook", "name of the Secret with the certificates")
	flags.StringSliceVar(&s.settings.Names, "service-names", nil, "names of Services in the namespace, or DNS names and IP addresses, by which API servers reach the replicas")
	flags.StringVar(&s.kube.Configuration, "configuration", "lifecycle-shim", "name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration")
	flags.StringVar(&s.lease.Name, "lease", "lifecycle-shim-webhook", "name of the Lease of the replica that keeps the certificates")
	flags.DurationVar(&s.lease.Duration, "lease-duration", 15*time.Second, "how long a replica that does not answer keeps the Lease")
	flags.StringVar(&s.lease.Identity, "identity", "", "this replica's name in the Lease (default: the host's name)")
	flags.DurationVar(&s.settings.CertificateLifetime, "certificate-lifetime", 2160*time.Hour, "how long a server certificate is valid; it is renewed when a third is left")
	flags.DurationVar(&s.settings.AuthorityLifetime, "authority-lifetime", 87600*time.Hour, "how long the authority is valid; it is replaced when a third is left")
	flags.DurationVar(&s.settings.Propagation, "propagation-delay", time.Minute, "how long API servers may take to read a changed configuration")
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "how to reach the API server (default: as a pod does)")
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
	debug.SetGCPercent(webhook.GCPercent)
	if s.certFile != "" {
		files, err := webhook.Files(s.certFile, s.keyFile)
		if err != nil {
			return err
		}
		return s.serve(ctx, files, nil)
	}
	if err := s.checkManaged(); err != nil {
		return err
	}
	client, err := connect(s.kubeconfig)
	if err != nil {
		return err
	}
	s.kube.Client = client
	return s.manage(ctx)
}

// checkManaged checks the flags of certificates that the webhook makes.
func (s *serving) checkManaged() error {
	for flag, value := range map[string]string{"namespace": s.kube.Namespace, "secret": s.kube.Secret, "configuration": s.kube.Configuration, "lease": s.lease.Name} {
		if value == "" || strings.ContainsAny(value, "/?#") {
			return fmt.Errorf("--%s %q is not the name of an object", flag, value)
		}
	}
	for i, name := range s.settings.Names {
		if name != "" && !strings.ContainsAny(name, ".:") { // of a Service: this is the name that an API server asks for
			s.settings.Names[i] = name + "." + s.kube.Namespace + ".svc"
		}
	}
	if s.lease.Duration < time.Second {
		return fmt.Errorf("--lease-duration %s is too short: give at least 1s", s.lease.Duration)
	}
	if err := s.settings.Check(); err != nil {
		return fmt.Errorf("--service-names, --certificate-lifetime, --authority-lifetime, --propagation-delay: %w", err)
	}
	if s.lease.Identity == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--identity: %w", err)
		}
		s.lease.Identity = name
	}
	return nil
}
