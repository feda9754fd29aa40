package shim

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// ConfigPath is the file with the node's settings. It need not exist.
const ConfigPath = "/etc/lifecycle-shim/config.toml"

// Settings that hold where neither the node nor the runtime's options say
// otherwise (docs/spec.md#settings).
const (
	defaultPostStartTimeout = 120 * time.Second
	defaultGracePeriod      = 10 * time.Second
	defaultOutputLimit      = 4 << 10
	// maxOutputLimit keeps an error with a handler's output well inside a
	// ttrpc message, which ends at 4 MiB.
	maxOutputLimit = 1 << 20
)

// settings are what handlers are run with.
type settings struct {
	postStartTimeout time.Duration
	gracePeriod      time.Duration
	outputLimit      int
	// metricsFile is empty where nothing is to be counted.
	metricsFile string
	// logOutput: the output of handlers that do not say it themselves goes to the
	// container's log.
	logOutput bool
}

// duration is written as in "90s" or "2m". It is a struct, because the decoder
// would take a number for nanoseconds.
type duration struct {
	time.Duration
	// err says why the text is none. It is kept for check, which knows the name of
	// the setting.
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

// runtimeConfig is a runtime's options in TOML: the node's settings and runc's
// options, under their own names.
type runtimeConfig struct {
	nodeConfig
	runcoptions.Options
	// Set by the CRI plugin's configuration beside the options themselves.
	TypeUrl, ConfigPath string
}

// runtimeOptions is what a Create request's options say, whichever of their
// forms they came in.
type runtimeOptions struct {
	// Runc's options, nil where none were sent.
	Runc *runcoptions.Options
	// systemdCgroup: the options say which cgroup driver to use.
	systemdCgroup bool
	config        nodeConfig
}

// readRuntimeOptions decodes nil, runc's options, runtimeoptions.v1 with TOML in
// a file or inline, and our own typed options.
func readRuntimeOptions(options *anypb.Any) (*runtimeOptions, error) {
	if options.GetTypeUrl() == "" {
		return &runtimeOptions{}, nil
	}
	value, err := typeurl.UnmarshalAny(options)
	if err != nil {
		return nil, &OptionsError{Err: fmt.Errorf("type %s: %w", options.GetTypeUrl(), err)}
	}
	switch value := value.(type) {
	case *runcoptions.Options:
		return &runtimeOptions{Runc: value, systemdCgroup: true}, nil
	case *runtimeoptions.Options:
		return readTOML(value)
	case *lifecyclev1.Options:
		return readTyped(value)
	default:
		return nil, &OptionsError{Err: fmt.Errorf("type %s is not known; allowed are those of runc, runtimeoptions.v1 and lifecycle.v1",
			options.GetTypeUrl())}
	}
}

// readTOML: a file wins over the inline text (runtimeoptions.v1's own rule).
func readTOML(options *runtimeoptions.Options) (*runtimeOptions, error) {
	source, body := "the runtime's options", options.ConfigBody
	if options.ConfigPath != "" {
		var err error
		source = options.ConfigPath
		if body, err = os.ReadFile(options.ConfigPath); err != nil {
			return nil, &OptionsError{Err: err}
		}
	}
	var config runtimeConfig
	if err := decodeTOML(body, &config); err != nil {
		return nil, &OptionsError{Err: fmt.Errorf("%s: %w", source, err)}
	}
	// By the decoder itself, which takes a key in whatever case.
	var present struct{ SystemdCgroup *bool }
	_ = toml.Unmarshal(body, &present) // it has just been decoded
	return &runtimeOptions{
		Runc:          proto.Clone(&config.Options).(*runcoptions.Options),
		systemdCgroup: present.SystemdCgroup != nil,
		config:        config.nodeConfig,
	}, nil
}

// decodeTOML names in every error the setting, where there is one.
func decodeTOML(body []byte, config interface{ check() error }) error {
	err := toml.NewDecoder(bytes.NewReader(body)).DisallowUnknownFields().Decode(config)
	var (
		unknown *toml.StrictMissingError
		wrong   *toml.DecodeError
	)
	switch {
	case errors.As(err, &unknown):
		keys := make([]string, len(unknown.Errors))
		for i := range keys {
			keys[i] = strconv.Quote(strings.Join(unknown.Errors[i].Key(), "."))
		}
		return fmt.Errorf("unknown setting %s; allowed are %s", strings.Join(keys, ", "), strings.Join(settingNames(config), ", "))
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		words := append(wrong.Key(), strings.TrimPrefix(wrong.Error(), "toml: "))
		return fmt.Errorf("line %d: %s", line, strings.Join(words, ": "))
	case err != nil:
		return err
	}
	return config.check()
}

// settingNames are those that a user may write.
func settingNames(config any) []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(config).Elem()) {
		if field.IsExported() && !field.Anonymous && field.Name != "TypeUrl" && field.Name != "ConfigPath" {
			names = append(names, field.Name)
		}
	}
	return names
}

func readTyped(options *lifecyclev1.Options) (*runtimeOptions, error) {
	for name, value := range map[string]*durationpb.Duration{
		"default_post_start_timeout": options.DefaultPostStartTimeout, "default_grace_period": options.DefaultGracePeriod,
	} {
		if value != nil && value.AsDuration() <= 0 {
			return nil, &OptionsError{Err: fmt.Errorf("%s: %s is not above 0", name, value.AsDuration())}
		}
	}
	config := nodeConfig{
		DefaultPostStartTimeout: duration{Duration: options.DefaultPostStartTimeout.AsDuration()},
		DefaultGracePeriod:      duration{Duration: options.DefaultGracePeriod.AsDuration()},
		OutputLimit:             options.OutputLimit,
		MetricsFile:             options.MetricsFile,
		HandlerOutput:           options.HandlerOutput,
	}
	if err := config.check(); err != nil {
		return nil, &OptionsError{Err: err}
	}
	return &runtimeOptions{Runc: options.Runc, systemdCgroup: options.Runc != nil, config: config}, nil
}

// runc returns what the runc service is given: nil where nothing was sent and
// nothing is needed, so that it does as under the stock shim. A cgroups path
// that only systemd can serve asks for its driver by itself.
func (o *runtimeOptions) runc(systemdCgroupsPath bool) (*anypb.Any, error) {
	options := o.Runc
	if systemdCgroupsPath && !o.systemdCgroup {
		if options == nil {
			options = &runcoptions.Options{}
		}
		options.SystemdCgroup = true
	}
	if options == nil {
		return nil, nil
	}
	return typeurl.MarshalAnyToProto(options)
}

// warnOfNodeConfig tells the log of a node's file that cannot be used. Containers
// without handlers do not need it, and run as under the stock shim.
func warnOfNodeConfig(ctx context.Context, path string) {
	if _, err := (&runtimeOptions{}).settings(path); err != nil {
		log.G(ctx).WithError(err).Warn("containers with lifecycle handlers will be refused")
	}
}

// settings returns the runtime's settings over the node's over the built-in.
func (o *runtimeOptions) settings(path string) (settings, error) {
	var node nodeConfig
	body, err := os.ReadFile(path)
	if err == nil {
		err = decodeTOML(body, &node)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return settings{}, &OptionsError{Err: fmt.Errorf("%s: %w", path, err)}
	}
	result := settings{
		postStartTimeout: cmp.Or(o.config.DefaultPostStartTimeout.Duration, node.DefaultPostStartTimeout.Duration, defaultPostStartTimeout),
		gracePeriod:      cmp.Or(o.config.DefaultGracePeriod.Duration, node.DefaultGracePeriod.Duration, defaultGracePeriod),
		outputLimit:      defaultOutputLimit,
		metricsFile:      cmp.Or(o.config.MetricsFile, node.MetricsFile),
		logOutput:        cmp.Or(o.config.HandlerOutput, node.HandlerOutput) == oci.OutputLog,
	}
	for _, limit := range []*int64{node.OutputLimit, o.config.OutputLimit} {
		if limit == nil {
			continue
		}
		if *limit < 0 || *limit > maxOutputLimit {
			return settings{}, &OptionsError{Err: fmt.Errorf("OutputLimit is %d; allowed is 0 to %d bytes", *limit, maxOutputLimit)}
		}
		result.outputLimit = int(*limit)
	}
	return result, nil
}
