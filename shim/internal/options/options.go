// Package options reads what a node's administrator and a runtime's configuration say:
// containerd's runtime options in all their forms, and the node's config.toml. From both
// it makes the Settings that handlers are run with, and the options for runc.
package options

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// Error says which option or setting cannot be used.
type Error struct{ Err error }

// Error returns a single line, for any input of the client: a log and containerd's client
// show no more.
func (e *Error) Error() string {
	return "runtime options: " + strings.Join(strings.Fields(e.Err.Error()), " ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Options are those of a Create request, in any form.
type Options struct {
	// Runc's options, nil if none were sent.
	Runc *runcoptions.Options
	// systemdCgroup: the options say which cgroup driver to use.
	systemdCgroup bool
	config        nodeConfig
}

// Read decodes nil, runc's options, runtimeoptions.v1 with TOML in a file or inline, and
// our own typed options.
func Read(options *anypb.Any) (*Options, error) {
	if options.GetTypeUrl() == "" {
		return &Options{}, nil
	}
	value, err := typeurl.UnmarshalAny(options)
	if err != nil {
		return nil, &Error{Err: fmt.Errorf("type %s: %w", options.GetTypeUrl(), err)}
	}
	switch value := value.(type) {
	case *runcoptions.Options:
		return &Options{Runc: value, systemdCgroup: true}, nil
	case *runtimeoptions.Options:
		return readTOML(value)
	case *lifecyclev1.Options:
		return readTyped(value)
	default:
		return nil, &Error{Err: fmt.Errorf("type %s is not known; known types are those of runc, runtimeoptions.v1 and lifecycle.v1",
			options.GetTypeUrl())}
	}
}

// runtimeConfig is a runtime's options in TOML: the node's settings and runc's options,
// under their own names.
type runtimeConfig struct {
	nodeConfig
	runcoptions.Options
	// Set by the CRI plugin's configuration beside the options themselves.
	TypeUrl, ConfigPath string
}

// readTOML: a file wins over the inline text (runtimeoptions.v1's own rule).
func readTOML(options *runtimeoptions.Options) (*Options, error) {
	source, body := "the runtime's options", options.ConfigBody
	if options.ConfigPath != "" {
		var err error
		source = options.ConfigPath
		if body, err = os.ReadFile(options.ConfigPath); err != nil {
			return nil, &Error{Err: err}
		}
	}
	var config runtimeConfig
	if err := decodeTOML(body, &config); err != nil {
		return nil, &Error{Err: fmt.Errorf("%s: %w", source, err)}
	}
	// The decoder finds it, because it accepts a key in upper or lower case.
	var present struct{ SystemdCgroup *bool }
	_ = toml.Unmarshal(body, &present) // it has just been decoded
	return &Options{
		Runc:          proto.Clone(&config.Options).(*runcoptions.Options),
		systemdCgroup: present.SystemdCgroup != nil,
		config:        config.nodeConfig,
	}, nil
}

// decodeTOML returns errors that name the setting, if there is one.
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
		return fmt.Errorf("unknown setting %s; allowed: %s", strings.Join(keys, ", "), strings.Join(settingNames(config), ", "))
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		words := append(wrong.Key(), strings.TrimPrefix(wrong.Error(), "toml: "))
		return fmt.Errorf("line %d: %s", line, strings.Join(words, ": "))
	case err != nil:
		return err
	}
	return config.check()
}

// settingNames returns the settings that a user may write.
func settingNames(config any) []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(config).Elem()) {
		if field.IsExported() && !field.Anonymous && field.Name != "TypeUrl" && field.Name != "ConfigPath" {
			names = append(names, field.Name)
		}
	}
	return names
}

func readTyped(options *lifecyclev1.Options) (*Options, error) {
	for name, value := range map[string]*durationpb.Duration{
		"default_post_start_timeout": options.DefaultPostStartTimeout, "default_grace_period": options.DefaultGracePeriod,
		"max_timeout": options.MaxTimeout, "max_grace_period": options.MaxGracePeriod,
	} {
		if value != nil && value.AsDuration() <= 0 {
			return nil, &Error{Err: fmt.Errorf("%s: %s is not above 0", name, value.AsDuration())}
		}
	}
	config := nodeConfig{
		DefaultPostStartTimeout: duration{Duration: options.DefaultPostStartTimeout.AsDuration()},
		DefaultGracePeriod:      duration{Duration: options.DefaultGracePeriod.AsDuration()},
		OutputLimit:             options.OutputLimit,
		MetricsFile:             options.MetricsFile,
		HandlerOutput:           options.HandlerOutput,
		MaxTimeout:              limitOf(options.MaxTimeout),
		MaxGracePeriod:          limitOf(options.MaxGracePeriod),
		AllowedHandlers:         options.AllowedHandlers,
	}
	if err := config.check(); err != nil {
		return nil, &Error{Err: err}
	}
	return &Options{Runc: options.Runc, systemdCgroup: options.Runc != nil, config: config}, nil
}

// ForRunc returns the options for the runc service. It returns nil if none were sent and
// none are needed, so that the runc service behaves as under the stock shim.
// systemdCgroupsPath says that only systemd can serve the container's cgroups path, which
// therefore asks for systemd's driver.
func (o *Options) ForRunc(systemdCgroupsPath bool) (*anypb.Any, error) {
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
