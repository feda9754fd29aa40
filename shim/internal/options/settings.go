package options

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// ConfigPath is the file with the node's settings. It need not exist.
const ConfigPath = "/etc/lifecycle-shim/config.toml"

// Settings that hold if neither the node nor the runtime's options say anything else
// (docs/spec.md#settings).
const (
	defaultPostStartTimeout = 120 * time.Second
	defaultGracePeriod      = 10 * time.Second
	defaultOutputLimit      = 4 << 10
)

// MaxOutputLimit is the largest OutputLimit. It keeps an error with a handler's output well
// inside a ttrpc message, which ends at 4 MiB.
const MaxOutputLimit = 1 << 20

// Settings are what handlers are run with.
type Settings struct {
	PostStartTimeout time.Duration
	GracePeriod      time.Duration
	OutputLimit      int
	// MetricsFile is empty if nothing is to be counted.
	MetricsFile string
	// LogOutput: the output of handlers that do not say where it goes goes to the
	// container's log.
	LogOutput bool
	// Limits are the operator's.
	Limits oci.Limits
}

// duration is written as in "90s" or "2m". It is a struct, because the decoder
// would take a number for nanoseconds.
type duration struct {
	time.Duration
	// err says why the text is no duration. check returns it, which knows the name of the
	// setting.
	err error
}

func (d *duration) UnmarshalText(text []byte) error {
	value, err := time.ParseDuration(string(text))
	if err != nil || value <= 0 {
		d.err = fmt.Errorf("%q is no duration above 0, such as \"90s\" or \"2m\"", text)
	}
	d.Duration = value
	return nil
}

// limit is a duration of whole seconds, like the fields of a block that it bounds.
type limit struct {
	time.Duration
	err error // as in duration
}

func (l *limit) UnmarshalText(text []byte) error {
	l.Duration, l.err = oci.ParseLimit(string(text))
	return nil
}

// limitOf returns a limit of typed options.
func limitOf(value *durationpb.Duration) (l limit) {
	if value != nil {
		_ = l.UnmarshalText([]byte(value.AsDuration().String())) // the error is in l
	}
	return l
}

// nodeConfig is the node's settings, in TOML.
type nodeConfig struct {
	DefaultPostStartTimeout duration
	DefaultGracePeriod      duration
	OutputLimit             *int64
	MetricsFile             string
	HandlerOutput           string
	MaxTimeout              limit
	MaxGracePeriod          limit
	AllowedHandlers         []string
}

func (c *nodeConfig) check() error {
	var allowedErr error
	if c.AllowedHandlers != nil {
		_, allowedErr = oci.ParseAllowed(c.AllowedHandlers)
	}
	for _, setting := range []struct {
		name string
		err  error
	}{
		{"DefaultPostStartTimeout", c.DefaultPostStartTimeout.err},
		{"DefaultGracePeriod", c.DefaultGracePeriod.err},
		{"MaxTimeout", c.MaxTimeout.err},
		{"MaxGracePeriod", c.MaxGracePeriod.err},
		{"AllowedHandlers", allowedErr},
	} {
		if setting.err != nil {
			return fmt.Errorf("%s: %w", setting.name, setting.err)
		}
	}
	if c.MetricsFile != "" && !filepath.IsAbs(c.MetricsFile) {
		return fmt.Errorf("MetricsFile: %q is no absolute path", c.MetricsFile)
	}
	if c.HandlerOutput != "" && c.HandlerOutput != oci.OutputStatus && c.HandlerOutput != oci.OutputLog {
		return fmt.Errorf("HandlerOutput: %q is neither %q nor %q", c.HandlerOutput, oci.OutputStatus, oci.OutputLog)
	}
	return nil
}

func (c *nodeConfig) limits() oci.Limits {
	return oci.Limits{MaxTimeout: c.MaxTimeout.Duration, MaxGracePeriod: c.MaxGracePeriod.Duration, AllowedHandlers: c.AllowedHandlers}
}

// Settings returns the runtime's settings over the node's, which path holds, over the
// built-in ones. Of two limits the stricter holds: a runtime's options cannot weaken what
// the node's operator has set.
func (o *Options) Settings(path string) (Settings, error) {
	var node nodeConfig
	body, err := os.ReadFile(path)
	if err == nil {
		err = decodeTOML(body, &node)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Settings{}, &Error{Err: fmt.Errorf("%s: %w", path, err)}
	}
	result := Settings{
		PostStartTimeout: cmp.Or(o.config.DefaultPostStartTimeout.Duration, node.DefaultPostStartTimeout.Duration, defaultPostStartTimeout),
		GracePeriod:      cmp.Or(o.config.DefaultGracePeriod.Duration, node.DefaultGracePeriod.Duration, defaultGracePeriod),
		OutputLimit:      defaultOutputLimit,
		MetricsFile:      cmp.Or(o.config.MetricsFile, node.MetricsFile),
		LogOutput:        cmp.Or(o.config.HandlerOutput, node.HandlerOutput) == oci.OutputLog,
		Limits:           node.limits().Stricter(o.config.limits()),
	}
	for _, most := range []*int64{node.OutputLimit, o.config.OutputLimit} {
		if most == nil {
			continue
		}
		if *most < 0 || *most > MaxOutputLimit {
			return Settings{}, &Error{Err: fmt.Errorf("OutputLimit is %d; it must be 0 to %d bytes", *most, MaxOutputLimit)}
		}
		result.OutputLimit = int(*most)
	}
	return result, nil
}

// WarnOfNode logs a warning if the node's file is invalid. Containers without handlers do
// not need it, and run as under the stock shim.
func WarnOfNode(ctx context.Context, path string) {
	if _, err := (&Options{}).Settings(path); err != nil {
		log.G(ctx).WithError(err).Warn("cannot use the node's settings: containers with lifecycle handlers will be refused")
	}
}

// Show writes the node's settings as JSON, or why they cannot be used. It returns the exit
// status. `lifecyclectl doctor` asks the very binary that will read them.
func Show(path string, out, errOut io.Writer) int {
	read, err := (&Options{}).Settings(path)
	if err == nil {
		err = json.NewEncoder(out).Encode(map[string]any{
			"DefaultPostStartTimeout": read.PostStartTimeout.String(), "DefaultGracePeriod": read.GracePeriod.String(),
			"OutputLimit": read.OutputLimit, "MetricsFile": read.MetricsFile, "LogOutput": read.LogOutput,
			"MaxTimeout": shown(read.Limits.MaxTimeout), "MaxGracePeriod": shown(read.Limits.MaxGracePeriod),
			"AllowedHandlers": read.Limits.Allowed(),
		})
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}

// shown returns a limit as config.toml has it, empty if there is none.
func shown(most time.Duration) string {
	if most == 0 {
		return ""
	}
	return most.String()
}
