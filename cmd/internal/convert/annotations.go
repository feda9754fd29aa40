package convert

import (
	"fmt"
	"maps"
	"slices"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// maxAnnotations bounds all annotations of an object together, keys and values, in bytes
// (apimachinery, TotalAnnotationSizeLimitB).
const maxAnnotations = 256 << 10

// sortAnnotations sorts the annotations by container, so that no container has to look at
// those of the others.
func (c *podConversion) sortAnnotations() {
	c.general, c.own = map[string]string{}, map[string][]string{}
	for key, value := range c.annotations {
		text, _ := value.(string) // the API server refuses all other types
		c.size += len(key) + len(text)
		switch name := named(key); {
		case !ours(key):
		case name == "":
			c.general[key] = text
		default:
			c.own[name] = append(c.own[name], key)
		}
	}
}

// seenBy returns the annotations for a container: its own and the known general ones.
func (c *podConversion) seenBy(name string) map[string]string {
	seen := map[string]string{}
	for _, key := range oci.Keys() {
		if value, ok := c.general[key]; ok {
			seen[key] = value
		}
	}
	for _, key := range c.own[name] {
		seen[key], _ = c.annotations[key].(string)
	}
	return seen
}

// checkAnnotations checks, as the shim does, the annotations that the changed containers
// will have.
func (c *podConversion) checkAnnotations() {
	if c.size > maxAnnotations {
		c.report.refuse(Finding{Object: c.object, Field: "metadata.annotations", Text: fmt.Sprintf(
			"would have at least %d bytes with the handlers; the API server accepts at most %d", c.size, maxAnnotations)})
		return
	}
	c.checkSpec("", oci.ContainerSpec(c.general, ""))
	for _, one := range c.added {
		if len(c.own[one.container]) > 0 { // for unknown keys; the block itself has been checked
			c.checkSpec(one.container, oci.ContainerSpec(c.seenBy(one.container), one.container))
		}
	}
}

// checkLimits checks what the pod's annotations say against the operator's limits. What
// is wrong with them otherwise is found at Create, or by Validate.
func (c *podConversion) checkLimits() {
	if !c.rules.Limits.Limited() {
		return
	}
	refused := len(c.report.Refusals)
	c.checkLimit("", oci.ContainerSpec(c.seenBy(""), ""))
	for _, name := range slices.Sorted(maps.Keys(c.own)) {
		if len(c.report.Refusals)-refused >= maxRefusals {
			return
		}
		if c.names[name] > 0 { // the shim ignores other keys
			c.checkLimit(name, oci.ContainerSpec(c.seenBy(name), name))
		}
	}
}

func (c *podConversion) checkLimit(container string, spec *oci.Spec) {
	if lifecycle, err := spec.Lifecycle(); err != nil || lifecycle == nil {
		return
	}
	for _, problem := range spec.Problems(c.rules.Limits) {
		c.report.refuse(Finding{Object: c.object, Container: container, Field: "metadata.annotations", Text: problem.Error()})
	}
}

func (c *podConversion) checkSpec(container string, spec *oci.Spec) {
	for i, problem := range spec.Problems(oci.Limits{}) {
		if i == maxRefusals {
			return
		}
		c.report.refuse(Finding{Object: c.object, Container: container, Field: "metadata.annotations", Text: problem.Error()})
	}
}
