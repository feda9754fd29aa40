package convert

import (
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// AddLimits adds the flags of the operator's limits. Their values are those of a node's
// config.toml, so that admission refuses what the nodes would refuse.
func AddLimits(flags *pflag.FlagSet, limits *oci.Limits) {
	flags.Var((*limitFlag)(&limits.MaxTimeout), "max-timeout", "refuse handlers that may take longer, such as 5m; MaxTimeout of the nodes (default no limit)")
	flags.Var((*limitFlag)(&limits.MaxGracePeriod), "max-grace-period", "refuse longer grace periods; MaxGracePeriod of the nodes (default no limit)")
	flags.Var((*allowedFlag)(&limits.AllowedHandlers), "allowed-handlers", "the types of handlers that are not refused; AllowedHandlers of the nodes (default all: "+
		strings.Join(oci.HandlerTypes, ",")+")")
}

type limitFlag time.Duration

func (f *limitFlag) Set(text string) error {
	value, err := oci.ParseLimit(text)
	*f = limitFlag(value)
	return err
}

func (f *limitFlag) Type() string { return "duration" }

func (f *limitFlag) String() string {
	if *f == 0 {
		return ""
	}
	return time.Duration(*f).String()
}

type allowedFlag []string

func (f *allowedFlag) Set(text string) error {
	var types []string
	for _, name := range strings.Split(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			types = append(types, name)
		}
	}
	value, err := oci.ParseAllowed(types)
	*f = value
	return err
}

func (f *allowedFlag) Type() string { return "types" }

func (f *allowedFlag) String() string { return strings.Join(*f, ",") }
