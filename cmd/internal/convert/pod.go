package convert

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// handlerKinds are the fields of a container's lifecycle that are moved.
var handlerKinds = []string{"postStart", "preStop"}

// maxRefusals bounds the findings about one pod, so that the output does not grow with its
// number of containers.
const maxRefusals = 100

// DefaultRuntimeClass is the RuntimeClass of deploy/.
const DefaultRuntimeClass = "lifecycle"

// Rules are the operator's, for a conversion or a validation.
type Rules struct {
	// RuntimeClass is the name of the class whose handler is this shim.
	RuntimeClass string
	Limits       oci.Limits
}

// podConversion converts one pod or pod template. Its work is linear in the pod: properties
// of the whole pod are looked up once.
type podConversion struct {
	report      *Report
	rules       Rules
	object      string
	at          pointer // to the object that has metadata and spec
	spec        map[string]any
	annotations map[string]any
	hasMetadata bool
	// names counts the pod's containers of each name.
	names map[string]int
	// moveSidecars is set if the preStop of sidecars is moved too.
	moveSidecars bool
	// general are the annotations for every container of the pod.
	general map[string]string
	// own are the keys of annotations by the container that they name.
	own map[string][]string
	// added are the new annotations, in the order of the containers; size is the size of
	// all annotations, old and new.
	added []annotation
	size  int
}

type annotation struct{ container, value string }

// convertPod returns the operations for the pod at a pointer, none if nothing moves. It adds
// refusals and warnings to the report. It returns early when ctx ends.
func convertPod(ctx context.Context, report *Report, rules Rules, object string, at pointer, pod map[string]any) []Operation {
	refused := len(report.Refusals)
	report.Refusals = append(report.Refusals, misplacedInPod(object, at, pod)...)
	spec, _ := pod["spec"].(map[string]any)
	containers := withHandlers(spec, at.with("spec"))
	c := &podConversion{report: report, rules: rules, object: object, at: at, spec: spec}
	if len(containers) == 0 {
		c.checkAnnotated(pod)
		return nil
	}
	if !c.concerned() || !c.readMetadata(pod) {
		return nil
	}
	c.names = countNames(spec)
	c.checkLimits()
	var operations []Operation
	for i, from := range containers {
		if ctx.Err() != nil {
			return nil
		}
		stripped := c.container(from)
		if len(stripped) > 0 {
			report.Moved++
		}
		operations = append(operations, stripped...)
		if more := len(containers) - i - 1; more > 0 && len(report.Refusals)-refused >= maxRefusals {
			report.refuse(Finding{Object: object, Text: fmt.Sprintf("has too many errors; %d more containers are not checked", more)})
			break
		}
		if c.size > maxAnnotations { // also bounds the patch
			break
		}
	}
	if len(operations) == 0 {
		return nil
	}
	c.checkAnnotations()
	return slices.Concat(c.setRuntimeClass(), c.annotate(), operations)
}

// checkAnnotated checks a pod without native handlers. It may have some in its annotations,
// which the operator's limits concern too.
func (c *podConversion) checkAnnotated(pod map[string]any) {
	if !c.rules.Limits.Limited() || c.spec["runtimeClassName"] != c.rules.RuntimeClass || windows(c.spec) != "" {
		return
	}
	c.annotations = mapping(mapping(pod["metadata"])["annotations"])
	c.sortAnnotations()
	c.names = countNames(c.spec)
	c.checkLimits()
}

// concerned reports whether the shim runs this pod's handlers.
func (c *podConversion) concerned() bool {
	if why := windows(c.spec); why != "" {
		c.report.warn(Finding{Object: c.object, Text: "is for Windows (" + why + "), where this shim does not run, so it is left as it is: the kubelet runs its handlers"})
		return false
	}
	switch class := c.spec["runtimeClassName"].(type) {
	case nil:
	case string:
		if class == c.rules.RuntimeClass {
			return true
		}
		if class == "" {
			c.refuseSpec("runtimeClassName", fmt.Sprintf(`is ""; remove the line, or name a RuntimeClass, such as %s`, c.rules.RuntimeClass))
			return false
		}
		c.report.warn(Finding{Object: c.object, Field: "spec.rules.RuntimeClassName", Text: fmt.Sprintf(
			"is %q, not %q, so the pod is left as it is: the kubelet runs its handlers. "+
				"If the handler of that class is this shim, pass it with --runtime-class; a pod has one runtime, so it cannot have both", cut(class), c.rules.RuntimeClass)})
		return false
	default:
		c.refuseSpec("runtimeClassName", "must be a string, such as "+c.rules.RuntimeClass)
		return false
	}
	return true
}

func (c *podConversion) refuseSpec(field, why string) {
	c.report.refuse(Finding{Object: c.object, Field: "spec." + field, Text: why})
}

// readMetadata sorts the pod's annotations and reports whether they can be used.
func (c *podConversion) readMetadata(pod map[string]any) bool {
	metadata, isMapping := pod["metadata"].(map[string]any)
	if pod["metadata"] != nil && !isMapping {
		c.report.refuse(Finding{Object: c.object, Field: "metadata", Text: "must be a mapping"})
		return false
	}
	annotations, isMapping := metadata["annotations"].(map[string]any)
	if metadata["annotations"] != nil && !isMapping {
		c.report.refuse(Finding{Object: c.object, Field: "metadata.annotations", Text: "must be a mapping"})
		return false
	}
	c.hasMetadata, c.annotations = metadata != nil, annotations
	c.sortAnnotations()
	switch mode := c.general[oci.KeySidecars]; mode {
	case "", oci.SidecarsKeep:
	case oci.SidecarsMove:
		c.moveSidecars = true
	default: // checked here because it matters even if nothing else is moved
		c.report.refuse(Finding{Object: c.object, Field: "metadata.annotations", Text: fmt.Sprintf(
			"annotation %q is %q; %s or %s is allowed", oci.KeySidecars, cut(mode), oci.SidecarsMove, oci.SidecarsKeep)})
		return false
	}
	return true
}

// container returns the operations for one container, or adds refusals to the report.
func (c *podConversion) container(from container) []Operation {
	if field, why := c.forbidden(from); why != "" {
		c.refuse(from, field, why)
		return nil
	}
	speaking, said := c.annotated(from)
	kinds := from.movable(c.moveSidecars || said.GetPreStop() != nil)
	if from.lifecycle["preStop"] != nil && from.sidecar() {
		c.warnSidecar(from, slices.Contains(kinds, "preStop"))
	}
	if len(kinds) == 0 {
		return nil
	}
	value, parsed, problems := block(from.tree, from.only(kinds), c.spec["terminationGracePeriodSeconds"], c.rules.Limits)
	for _, problem := range problems {
		c.refuse(from, problem.Field, problem.Text)
	}
	switch {
	case len(problems) > 0:
		return nil
	case speaking == "":
		c.added = append(c.added, annotation{from.name, value})
		c.size += len(oci.NamedKey(from.name)) + len(value)
	case !c.same(from, speaking, said, parsed):
		return nil
	}
	return strip(from, kinds)
}

func (c *podConversion) refuse(from container, field, why string) {
	if from.name == "" { // give its index instead
		index := from.at[len(from.at)-1]
		field = fmt.Sprintf("spec.%s[%s].%s", from.list, index, field)
	}
	c.report.refuse(Finding{Object: c.object, Container: cut(from.name), Field: field, Text: why})
}

func (c *podConversion) warnSidecar(from container, moved bool) {
	text := "stays with the kubelet, because only the kubelet knows when the pod starts to terminate; with the annotation " +
		oci.KeySidecars + ": " + oci.SidecarsMove + " on the pod the shim runs it when the sidecar is stopped"
	if moved {
		text = "runs later under this shim, when the sidecar is stopped, after the main containers have exited; " +
			"the kubelet would run it at the same time as theirs"
	}
	c.report.warn(Finding{Object: c.object, Container: from.name, Field: "lifecycle.preStop", Text: text})
}

// forbidden returns the field and the reason if a container's handlers cannot be moved.
func (c *podConversion) forbidden(from container) (field, why string) {
	if field := unknownField(from.lifecycle); field != "" {
		return "lifecycle." + cut(field), notKubernetes(field, from.name)
	}
	switch {
	case from.list == "ephemeralContainers":
		return "lifecycle", "is not allowed on an ephemeral container, by Kubernetes too; remove it"
	case from.list == "initContainers" && !from.sidecar():
		return "lifecycle", "is not allowed on an init container, by Kubernetes too, unless it is a sidecar (restartPolicy: Always)"
	case !containerName.MatchString(from.name):
		return "name", fmt.Sprintf("is %q; the name is part of the annotation's key, so it must be an RFC 1123 label: at most 63 lower-case letters, digits and -", cut(from.name))
	case c.names[from.name] > 1:
		return "name", "is the name of more than one container of the pod, so an annotation cannot name one of them"
	}
	return "", ""
}

// annotated returns the key of the annotation that the container already has, and the block
// that the shim will read from it, nil if the shim cannot read it.
func (c *podConversion) annotated(from container) (key string, said *lifecyclev1.Block) {
	for _, candidate := range append([]string{oci.NamedKey(from.name)}, oci.Keys()...) {
		if _, ok := c.annotations[candidate]; ok {
			key = candidate
			break
		}
	}
	if key == "" {
		return "", nil
	}
	lifecycle, err := oci.ContainerSpec(c.seenBy(from.name), from.name).Lifecycle()
	if err != nil || lifecycle == nil {
		return key, nil
	}
	return key, lifecycle.Block
}

// same reports whether the annotation has each of the native handlers unchanged. It may
// have more fields, such as time limits. A different handler is refused: the kubelet would
// run one and the shim the other.
func (c *podConversion) same(from container, key string, said, native *lifecyclev1.Block) bool {
	same := true
	for _, kind := range handlerKinds {
		ours, theirs := canonicalHandler(oci.HandlerOf(native, kind)), canonicalHandler(oci.HandlerOf(said, kind))
		why := ""
		switch {
		case ours == nil || ours.equal(theirs):
			continue
		case theirs == nil:
			why = fmt.Sprintf("is not in the annotation %q, which must hold all handlers of this container; move it there, or remove the annotation", key)
		default:
			why = fmt.Sprintf("is not what the annotation %q says: the kubelet would run one, and the shim the other; remove one of the two", key)
		}
		c.refuse(from, "lifecycle."+kind, why)
		same = false
	}
	return same
}

// setRuntimeClass adds the class if the pod has none.
func (c *podConversion) setRuntimeClass() []Operation {
	if c.spec["runtimeClassName"] != nil {
		return nil
	}
	return []Operation{add(c.at.with("spec", "runtimeClassName"), c.rules.RuntimeClass)}
}

// annotate adds the new annotations, in the order of the containers.
func (c *podConversion) annotate() []Operation {
	if len(c.added) == 0 {
		return nil
	}
	var operations []Operation
	metadata := c.at.with("metadata")
	if !c.hasMetadata {
		operations = append(operations, add(metadata, emptyObject))
	}
	if c.annotations == nil {
		operations = append(operations, add(metadata.with("annotations"), emptyObject))
	}
	for _, one := range c.added {
		operations = append(operations, add(metadata.with("annotations", oci.NamedKey(one.container)), one.value))
	}
	return operations
}

// strip removes handlers, and the lifecycle too if it has no other fields.
func strip(from container, kinds []string) []Operation {
	at := from.at.with("lifecycle")
	for _, key := range slices.Sorted(maps.Keys(from.lifecycle)) {
		if from.lifecycle[key] == nil || slices.Contains(kinds, key) {
			continue
		}
		var operations []Operation
		for _, kind := range handlerKinds {
			if _, there := from.lifecycle[kind]; there && (from.lifecycle[kind] == nil || slices.Contains(kinds, kind)) {
				operations = append(operations, remove(at.with(kind)))
			}
		}
		return operations
	}
	return []Operation{remove(at)}
}

// cut shortens a text from the input, which may be of any length, to the length of a name.
func cut(text string) string {
	return shorten.End(text, 253)
}
