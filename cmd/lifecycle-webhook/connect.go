package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/containerd/log"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// maxText bounds a line of the client's library in the log.
const maxText = 1 << 10

// connect returns a client of the API server, which asks it rarely.
func connect(kubeconfig string) (kubernetes.Interface, error) {
	klog.SetSlogLogger(slog.New(toLog{}))
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find the API server, which the webhook needs for its certificates (or give --tls-cert-file): %w", err)
	}
	config.UserAgent = "lifecycle-webhook/" + version.Version
	config.QPS, config.Burst = 5, 10
	return kubernetes.NewForConfig(config)
}

// toLog brings the lines of the client's library into this program's log.
type toLog struct{ attrs []slog.Attr }

func (toLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (t toLog) Handle(_ context.Context, record slog.Record) error {
	var text strings.Builder
	text.WriteString(record.Message)
	add := func(attr slog.Attr) bool {
		fmt.Fprintf(&text, " %s=%v", attr.Key, attr.Value)
		return true
	}
	for _, attr := range t.attrs {
		add(attr)
	}
	record.Attrs(add)
	line := shorten.End(strings.TrimSpace(text.String()), maxText)
	if record.Level >= slog.LevelWarn {
		log.L.Warn("cannot use the API server as usual, trying again: " + line)
	} else {
		log.L.Debug(line)
	}
	return nil
}

func (t toLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return toLog{append(t.attrs[:len(t.attrs):len(t.attrs)], attrs...)}
}

func (t toLog) WithGroup(string) slog.Handler { return t }
