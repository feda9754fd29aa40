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

// nodeConfig is the node's settings, in TOML.
type nodeConfig struct {
	DefaultPostStartTimeout duration
	DefaultGracePeriod      duration
	OutputLimit             *int64
	MetricsFile             string
	HandlerOutput           string
}

func (c *nodeConfig) check() error {
	if err := c.DefaultPostStartTimeout.err; err != nil {
		return fmt.Errorf("DefaultPostStartTimeout: %w", err)
	}
	if err := c.DefaultGracePeriod.err; err != nil {
		return fmt.Errorf("DefaultGracePeriod: %w", err)
	}
	if c.MetricsFile != "" && !filepath.IsAbs(c.MetricsFile) {
		return fmt.Errorf("MetricsFile: %q is no absolute path", c.MetricsFile)
	}
	if c.HandlerOutput != "" && c.HandlerOutput != oci.OutputStatus && c.HandlerOutput != oci.OutputLog {
		return fmt.Errorf("HandlerOutput: %q is neither %q nor %q", c.HandlerOutput, oci.OutputStatus, oci.OutputLog)
	}
	return nil
}

// Settings returns the runtime's settings over the node's, which path holds, over the
// built-in ones.
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
	}
	for _, limit := range []*int64{node.OutputLimit, o.config.OutputLimit} {
		if limit == nil {
			continue
		}
		if *limit < 0 || *limit > MaxOutputLimit {
			return Settings{}, &Error{Err: fmt.Errorf("OutputLimit is %d; it must be 0 to %d bytes", *limit, MaxOutputLimit)}
		}
		result.OutputLimit = int(*limit)
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
		})
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
		return 1
	}
	return 0
}
