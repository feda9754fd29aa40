package convert

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// handlerKinds are the fields of a container's lifecycle that are moved.
var handlerKinds = []string{"postStart", "preStop"}

// maxAnnotations bounds all annotations of an object together, keys and values, in bytes
// (apimachinery, TotalAnnotationSizeLimitB).
const maxAnnotations = 256 << 10

// DefaultRuntimeClass is the RuntimeClass of deploy/.
const DefaultRuntimeClass = "lifecycle"

// containerName is what the API server takes (RFC 1123 label), and all that an
// annotation's key can carry.
var containerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// container is one of a pod's that has handlers.
type container struct {
	name      string
	list      string // field of the pod's spec
	at        pointer
	tree      map[string]any
	lifecycle map[string]any
}

func (c container) sidecar() bool {
	return c.list == "initContainers" && c.tree["restartPolicy"] == "Always"
}

// podConversion is the work on one pod or pod template.
type podConversion struct {
	report       *Report
	runtimeClass string
	object       string
	at           pointer // of the object that has metadata and spec
	spec         map[string]any
	annotations  map[string]any
	hasMetadata  bool
	// added are the annotations to be.
	added map[string]string
}

// convertPod returns the operations for the pod at a pointer, none where nothing
// moves. What is refused is in the report.
func convertPod(report *Report, runtimeClass, object string, at pointer, pod map[string]any) []Operation {
	spec, _ := pod["spec"].(map[string]any)
	containers := withHandlers(spec, at.with("spec"))
	if len(containers) == 0 {
		return nil
	}
	metadata, isMapping := pod["metadata"].(map[string]any)
	if pod["metadata"] != nil && !isMapping {
		report.refuse(Finding{Object: object, Field: "metadata", Text: "must be a mapping"})
		return nil
	}
	annotations, isMapping := metadata["annotations"].(map[string]any)
	if metadata["annotations"] != nil && !isMapping {
		report.refuse(Finding{Object: object, Field: "metadata.annotations", Text: "must be a mapping"})
		return nil
	}
	c := &podConversion{
		report: report, runtimeClass: runtimeClass, object: object, at: at, spec: spec,
		annotations: annotations, hasMetadata: metadata != nil, added: map[string]string{},
	}
	var operations []Operation
	for _, container := range containers {
		operations = append(operations, c.container(container)...)
	}
	if len(c.added) == 0 {
		return nil
	}
	report.Moved += len(c.added)
	c.checkAnnotations()
	return slices.Concat(c.runtimeClassName(), c.annotate(containers), operations)
}

// withHandlers lists the containers that have a handler, in the order in which they
// are annotated.
func withHandlers(spec map[string]any, at pointer) []container {
	var found []container
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		items, _ := spec[list].([]any)
		for i, item := range items {
			tree, _ := item.(map[string]any)
			lifecycle, _ := tree["lifecycle"].(map[string]any)
			if lifecycle["postStart"] == nil && lifecycle["preStop"] == nil && unknownField(lifecycle) == "" {
				continue
			}
			name, _ := tree["name"].(string)
			found = append(found, container{name: name, list: list, at: at.with(list).index(i), tree: tree, lifecycle: lifecycle})
		}
	}
	return found
}

// unknownField returns one of a lifecycle that Kubernetes does not have: a misspelt handler.
func unknownField(lifecycle map[string]any) string {
	for _, name := range slices.Sorted(maps.Keys(lifecycle)) {
		if !slices.Contains(handlerKinds, name) && name != "stopSignal" {
			return name
		}
	}
	return ""
}

// notKubernetes says what to do about a field that Kubernetes does not have.
func notKubernetes(field, container string) string {
	text := "is not a known field; allowed are postStart, preStop and stopSignal"
	if slices.Contains(oci.Handlers, field) {
		text += fmt.Sprintf(": Kubernetes has no %s, so the whole block goes into the annotation %s", field, oci.NamedKey(container))
	}
	return text
}

// container converts one, or says why not.
func (c *podConversion) container(from container) []Operation {
	if field := unknownField(from.lifecycle); field != "" {
		c.refuse(from, "lifecycle."+field, notKubernetes(field, from.name))
		return nil
	}
	if field, why := c.forbidden(from); why != "" {
		c.refuse(from, field, why)
		return nil
	}
	if key := c.annotated(from); key != "" {
		c.report.warn(Finding{Object: c.object, Container: from.name, Field: "lifecycle", Text: fmt.Sprintf(
			"is left as it is, because the annotation %q is there already: the kubelet will run these handlers, and the shim those of the annotation; remove one of the two", key)})
		return nil
	}
	value, problems := block(from.tree, from.lifecycle, c.spec["terminationGracePeriodSeconds"])
	for _, problem := range problems {
		c.refuse(from, problem.Field, problem.Text)
	}
	if len(problems) > 0 {
		return nil
	}
	if from.sidecar() && from.lifecycle["preStop"] != nil {
		c.report.warn(Finding{Object: c.object, Container: from.name, Field: "lifecycle.preStop", Text: "runs, under this shim, " +
			"when the sidecar's turn to stop has come, after the main containers have ended; the kubelet runs it at the same time as theirs"})
	}
	c.added[oci.NamedKey(from.name)] = value
	return strip(from)
}

func (c *podConversion) refuse(from container, field, why string) {
	c.report.refuse(Finding{Object: c.object, Container: from.name, Field: field, Text: why})
}

// forbidden tells why a container cannot have handlers at all.
func (c *podConversion) forbidden(from container) (field, why string) {
	switch {
	case from.list == "ephemeralContainers":
		return "lifecycle", "is not allowed on an ephemeral container, by Kubernetes too; remove it"
	case from.list == "initContainers" && !from.sidecar():
		return "lifecycle", "is not allowed on an init container, by Kubernetes too, unless it is a sidecar (restartPolicy: Always)"
	case !containerName.MatchString(from.name):
		return "name", fmt.Sprintf("is %q at %s; the annotation is found by the name, so it must be an RFC 1123 label: at most 63 lower-case letters, digits and -", from.name, from.at)
	case c.count(from.name) > 1:
		return "name", "is the name of more than one container of the pod, so an annotation could not tell them apart"
	}
	return "", ""
}

// count the pod's containers of a name.
func (c *podConversion) count(name string) int {
	count := 0
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		items, _ := c.spec[list].([]any)
		for _, item := range items {
			if tree, _ := item.(map[string]any); tree["name"] == name {
				count++
			}
		}
	}
	return count
}

// annotated returns the annotation that speaks to the container already.
func (c *podConversion) annotated(from container) string {
	for _, key := range append([]string{oci.NamedKey(from.name)}, oci.Keys()...) {
		if _, ok := c.annotations[key]; ok {
			return key
		}
	}
	return ""
}

// strip takes the handlers away, and the lifecycle too where nothing else is in it.
func strip(from container) []Operation {
	at := from.at.with("lifecycle")
	for _, key := range slices.Sorted(maps.Keys(from.lifecycle)) {
		if from.lifecycle[key] != nil && !slices.Contains(handlerKinds, key) {
			return stripHandlers(at, from.lifecycle)
		}
	}
	return []Operation{remove(at)}
}

func stripHandlers(at pointer, lifecycle map[string]any) []Operation {
	var operations []Operation
	for _, kind := range handlerKinds {
		if _, ok := lifecycle[kind]; ok {
			operations = append(operations, remove(at.with(kind)))
		}
	}
	return operations
}

// runtimeClassName is set where it is absent.
func (c *podConversion) runtimeClassName() []Operation {
	switch class := c.spec["runtimeClassName"]; class {
	case nil:
		return []Operation{add(c.at.with("spec", "runtimeClassName"), c.runtimeClass)}
	case c.runtimeClass:
	default:
		c.report.refuse(Finding{Object: c.object, Field: "spec.runtimeClassName", Text: fmt.Sprintf(
			"is %q, and the handlers run under %q only; remove the line, or name the right class with --runtime-class", class, c.runtimeClass)})
	}
	return nil
}

// annotate adds what is to be added, in the order of the containers.
func (c *podConversion) annotate(containers []container) []Operation {
	var operations []Operation
	metadata := c.at.with("metadata")
	if !c.hasMetadata {
		operations = append(operations, add(metadata, emptyObject))
	}
	if c.annotations == nil {
		operations = append(operations, add(metadata.with("annotations"), emptyObject))
	}
	for _, from := range containers {
		key := oci.NamedKey(from.name)
		if value, ok := c.added[key]; ok {
			operations = append(operations, add(metadata.with("annotations", key), value))
		}
	}
	return operations
}

// checkAnnotations looks at all annotations as they will be, as the shim will.
func (c *podConversion) checkAnnotations() {
	all, size := maps.Clone(c.added), 0
	for key, value := range c.annotations {
		text, _ := value.(string) // the API server refuses what is none
		all[key] = text
	}
	for key, value := range all {
		size += len(key) + len(value)
	}
	if size > maxAnnotations {
		c.report.refuse(Finding{Object: c.object, Field: "metadata.annotations", Text: fmt.Sprintf(
			"would have %d bytes with the handlers; the API server takes at most %d", size, maxAnnotations)})
	}
	said := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(c.added)) {
		name := key[:len(key)-len(oci.NamedKey(""))]
		for _, problem := range oci.ContainerSpec(all, name).Problems() {
			if !said[problem.Error()] {
				said[problem.Error()] = true
				c.report.refuse(Finding{Object: c.object, Container: name, Field: "metadata.annotations", Text: problem.Error()})
			}
		}
	}
}
