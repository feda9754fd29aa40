package launch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	_ "github.com/containerd/containerd/v2/core/runtime" // registers features.Features with typeurl
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/bounds"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
)

// Info answers -info for every form of options, not only runc's own.
func (m *Manager) Info(ctx context.Context, encoded io.Reader) (info *types.RuntimeInfo, err error) {
	defer func() { err = bounds.Printed(err) }()
	input, err := io.ReadAll(io.LimitReader(encoded, maxParams))
	if err != nil {
		return nil, fmt.Errorf("read the runtime's options: %w", err)
	}
	var sent anypb.Any
	if err := proto.Unmarshal(input, &sent); err != nil {
		return nil, &options.Error{Err: err}
	}
	info, err = m.runcInfo(ctx, &sent)
	if err != nil || keepsUserNamespaces(&sent) {
		return info, err
	}
	return info, withoutUserNamespaces(info)
}

// runcInfo returns the runc manager's answer to the options, translated into runc's.
func (m *Manager) runcInfo(ctx context.Context, sent *anypb.Any) (*types.RuntimeInfo, error) {
	read, err := options.Read(sent)
	if err != nil {
		return nil, err
	}
	translated, err := read.ForRunc(false)
	if err != nil {
		return nil, err
	}
	encoded, err := proto.Marshal(translated) // none are nothing
	if err != nil {
		return nil, err
	}
	return m.Shim.Info(ctx, bytes.NewReader(encoded))
}

// keepsUserNamespaces reports whether containerd can start a container in a user
// namespace under a runtime that has these options. Its CRI plugin writes the owner
// of the container's stdio into the options, and they must be runc's for that, or
// empty: getRuncOptions in client/task.go of containerd 2.0 to 2.4 fails on every other type
// ("can't unmarshal type").
func keepsUserNamespaces(sent *anypb.Any) bool {
	return len(sent.GetValue()) == 0 || sent.MessageIs(&runcoptions.Options{})
}

// withoutUserNamespaces removes user namespaces from the features. CRI then reports
// that the handler has none, and the kubelet refuses a pod with hostUsers: false with
// that reason, before any container fails to start. Everything else stays: recursive
// read-only mounts and ID-mapped mounts need no options.
func withoutUserNamespaces(info *types.RuntimeInfo) error {
	if info.GetFeatures() == nil {
		return nil
	}
	var known features.Features
	if err := typeurl.UnmarshalTo(info.Features, &known); err != nil {
		return fmt.Errorf("read the features of the OCI runtime: %w", err)
	}
	if known.Linux == nil {
		return nil
	}
	known.Linux.Namespaces = slices.DeleteFunc(known.Linux.Namespaces, func(name string) bool { return name == "user" })
	var err error
	if info.Features, err = typeurl.MarshalAnyToProto(&known); err != nil {
		return fmt.Errorf("write the features of the OCI runtime: %w", err)
	}
	return nil
}
