package oci

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// Annotation keys (docs/spec.md#keys). A pod's container is named in the key's DNS prefix
// because users of Kubernetes cannot annotate single containers.
const (
	domain       = "lifecycle-shim.io"
	KeyLifecycle = domain + "/lifecycle"
	KeyPostStart = domain + "/postStart"
	KeyPreStop   = domain + "/preStop"
	KeyPreStart  = domain + "/preStart"
	KeyOnExit    = domain + "/onExit"
	// KeySidecars is an annotation of a pod for the tools that move native handlers. The
	// shim only checks it. With SidecarsMove, they move a sidecar's preStop too; by default
	// it stays with the kubelet (SidecarsKeep).
	KeySidecars  = domain + "/sidecars"
	SidecarsMove = "Move"
	SidecarsKeep = "Keep"
)

// singleKeys are the keys with one handler each, for the command line.
var singleKeys = []string{KeyPreStart, KeyPostStart, KeyPreStop, KeyOnExit}

// Keys returns all keys of a container's annotations, except the one with the container's
// name.
func Keys() []string { return append([]string{KeyLifecycle}, singleKeys...) }

// Annotations that the CRI plugin and the kubelet set.
const (
	criContainerType = "io.kubernetes.cri.container-type"
	criContainerName = "io.kubernetes.cri.container-name"
	typeContainer    = "container"
	typeSandbox      = "sandbox"
	// podGracePeriod reaches a container only if the runtime's container_annotations
	// include io.kubernetes.*.
	podGracePeriod = "io.kubernetes.pod.terminationGracePeriod"
)

// Lifecycle describes a container's handlers and how it is stopped.
type Lifecycle struct {
	// Block has at least one handler and has been checked.
	Block *lifecyclev1.Block
	// StopSignal is the number of Block's stop signal, or 0 if it names none.
	StopSignal uint32
	// CRI means that the CRI plugin created the container. It decides the deadline of
	// every stop.
	CRI bool
	// PodGracePeriod is the pod's termination grace period, or 0 if it is not known.
	PodGracePeriod time.Duration
	// key is the annotation with the whole block, empty if each handler has its own.
	key string
}

// Lifecycle returns what the annotations describe, or nil if they have no handler. The
// error is an *InvalidError.
func (s *Spec) Lifecycle() (*Lifecycle, error) {
	if s.Annotations[criContainerType] == typeSandbox {
		return nil, nil
	}
	key, block, err := s.block()
	if err != nil {
		return nil, first(err)
	}
	if block.PreStart == nil && block.PostStart == nil && block.PreStop == nil && block.OnExit == nil {
		return nil, nil
	}
	signal, _ := parseSignal(block.StopSignal) // the block has been checked
	return &Lifecycle{
		Block:          block,
		StopSignal:     signal,
		CRI:            s.Annotations[criContainerType] == typeContainer,
		PodGracePeriod: s.podGracePeriod(),
		key:            key,
	}, nil
}

// Within returns an *InvalidError if the lifecycle is above the limits.
func (l *Lifecycle) Within(limits Limits) error {
	return first(withKeys(l.key, limits.check(l.Block)))
}

// Problems returns all mistakes in the annotations, or, if they have none, all that is above
// the limits. The first one is the error of Lifecycle or Within.
func (s *Spec) Problems(limits Limits) []*InvalidError {
	if s.Annotations[criContainerType] == typeSandbox {
		return nil
	}
	key, block, err := s.block()
	if err == nil {
		err = withKeys(key, limits.check(block))
	}
	return flatten(err)
}

// withKeys turns fieldErrors into InvalidErrors. Without a key, each handler's annotation is
// named like the handler.
func withKeys(key string, err error) error {
	if key != "" || err == nil {
		return of(key, err, nil)
	}
	var errs []error
	for _, one := range fields(err) {
		handler, _, _ := strings.Cut(one.path, ".")
		errs = append(errs, of(domain+"/"+handler, one, nil))
	}
	return errors.Join(errs...)
}

// ContainerSpec returns the spec that the shim will read for a pod's container, with
// annotations only: the pod's (which the runtime's pod_annotations must include) and the
// container's name.
func ContainerSpec(podAnnotations map[string]string, container string) *Spec {
	seen := maps.Clone(podAnnotations)
	if seen == nil {
		seen = map[string]string{}
	}
	seen[criContainerType], seen[criContainerName] = typeContainer, container
	return &Spec{Annotations: seen}
}

// NamedKey returns the annotation key of the block for the pod's container with that name.
func NamedKey(container string) string { return container + "." + KeyLifecycle }

// Parse decodes and checks a value of a /lifecycle key. The problems are the ones that
// Problems would return, with the Key KeyLifecycle.
func Parse(value string, limits Limits) (*lifecyclev1.Block, []*InvalidError) {
	spec := &Spec{Annotations: map[string]string{KeyLifecycle: value}}
	_, block, err := spec.block()
	if err == nil {
		err = withKeys(KeyLifecycle, limits.check(block))
	}
	return block, flatten(err)
}

// block finds the annotations for this container and decodes them. Its error joins all
// mistakes. key is the annotation with the whole block, empty if each handler has its own.
func (s *Spec) block() (key string, block *lifecyclev1.Block, err error) {
	named := ""
	if name := s.Annotations[criContainerName]; name != "" {
		named = name + "." + domain
	}
	key, block, err = s.chosen(named)
	return key, block, errors.Join(s.checkKeys(named), err)
}

// chosen decodes the annotation with the highest priority. named is the prefix of the key
// with the container's name, or empty.
func (s *Spec) chosen(named string) (string, *lifecyclev1.Block, error) {
	key := KeyLifecycle
	if _, ok := s.Annotations[named+"/lifecycle"]; ok && named != "" {
		key = named + "/lifecycle"
	}
	_, whole := s.Annotations[key]
	single := slices.ContainsFunc(singleKeys, func(key string) bool { _, ok := s.Annotations[key]; return ok })
	switch {
	case whole && single:
		return key, nil, &InvalidError{Key: key, Problem: fmt.Sprintf(
			"cannot be used together with %s: move those handlers into it, or remove it", either(singleKeys))}
	case whole:
		block := &lifecyclev1.Block{}
		return key, block, s.decode(key, "", block)
	default:
		block, err := s.singles()
		return "", block, err
	}
}

// singles builds a block from the singleKeys. It may be empty.
func (s *Spec) singles() (*lifecyclev1.Block, error) {
	block := &lifecyclev1.Block{}
	var errs []error
	for key, handler := range map[string]**lifecyclev1.Handler{
		KeyPreStart: &block.PreStart, KeyPostStart: &block.PostStart, KeyPreStop: &block.PreStop, KeyOnExit: &block.OnExit,
	} {
		if _, ok := s.Annotations[key]; ok {
			*handler = &lifecyclev1.Handler{}
		}
	}
	for _, key := range singleKeys { // in the order of a container's life
		name := strings.TrimPrefix(key, domain+"/")
		if handler := HandlerOf(block, name); handler != nil {
			errs = append(errs, s.decode(key, name, handler))
		}
	}
	return block, errors.Join(errs...)
}

// HandlerOf returns the block's handler with that name, or nil.
func HandlerOf(block *lifecyclev1.Block, name string) *lifecyclev1.Handler {
	switch name {
	case "preStart":
		return block.GetPreStart()
	case "postStart":
		return block.GetPostStart()
	case "preStop":
		return block.GetPreStop()
	case "onExit":
		return block.GetOnExit()
	}
	return nil
}

// Handlers are the names of a block's handlers, in the order of a container's life.
var Handlers = []string{"preStart", "postStart", "preStop", "onExit"}

// either lists words as alternatives.
func either(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// checkKeys refuses unknown keys of our domain: if a misspelt handler were ignored, the
// mistake would be found in production. It reports at most maxProblems of them.
func (s *Spec) checkKeys(named string) error {
	var errs []error
	for _, key := range sortedKeys(s.Annotations) {
		prefix, name, ok := strings.Cut(key, "/")
		allowed := ""
		switch {
		case !ok:
		case key == KeySidecars:
			if value := s.Annotations[key]; value != SidecarsMove && value != SidecarsKeep {
				errs = append(errs, &InvalidError{Key: key, Problem: fmt.Sprintf("is %.40q; %s or %s is allowed", value, SidecarsMove, SidecarsKeep)})
			}
		case prefix == domain && !slices.Contains(Keys(), key):
			allowed = "allowed: " + strings.Join(Keys(), ", ")
		case named != "" && prefix == named && name != "lifecycle":
			allowed = "it must be " + shorten.End(named, maxQuoted) + "/lifecycle"
		}
		if allowed == "" {
			continue
		}
		if errs = append(errs, of(key, invalid("", "is not a known key; %s", allowed), nil)); len(errs) == maxProblems {
			break
		}
	}
	return errors.Join(errs...)
}

// podGracePeriod reads the kubelet's annotation. Users do not write it, so an invalid value
// is ignored.
func (s *Spec) podGracePeriod() time.Duration {
	seconds, err := strconv.ParseInt(s.Annotations[podGracePeriod], 10, 64)
	if err != nil {
		return 0 // absent or not a number
	}
	return Seconds(seconds)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
