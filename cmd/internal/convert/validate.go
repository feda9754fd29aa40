package convert

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// Validate checks, as the shim does, all annotations in data: manifests of pods and pod
// templates, OCI specs (a bundle's config.json), a mapping of annotations, or a single
// block. It refuses what the shim would refuse.
func Validate(data []byte, rules Rules, more ...PodPath) *Report {
	v := &validation{report: &Report{}, rules: rules, more: more}
	for _, document := range split(bytes.TrimPrefix(data, []byte(byteOrderMark))) {
		if len(bytes.TrimSpace(document.text)) == 0 {
			continue // a parser takes 100 µs, and a stream may have many empty documents
		}
		if err := v.document(document); err != nil {
			v.refuse(document.finding(err))
		}
	}
	return v.report
}

type validation struct {
	report *Report
	rules  Rules
	more   []PodPath
}

func (v *validation) refuse(f Finding) { v.report.refuse(f) }
func (v *validation) warn(f Finding)   { v.report.warn(f) }

func (v *validation) document(d document) error {
	p, err := d.read()
	if err != nil || p.nodesErr == nil && p.nodes == nil {
		return err
	}
	switch tree := p.tree; {
	case tree["kind"] != nil:
		for _, o := range objects(tree, d.name(), v.more...) {
			reportElsewhere(v.report, o)
			if o.known {
				v.located(d, p, o.places(), func() { v.pod(o) })
			}
		}
	case tree["ociVersion"] != nil:
		v.located(d, p, func(f Finding) pointer { return pointer{"annotations", annotationOf(f)} }, func() { v.spec(d.name(), tree) })
	case slices.ContainsFunc(slices.Collect(maps.Keys(tree)), ours):
		v.located(d, p, func(f Finding) pointer { return pointer{annotationOf(f)} }, func() { v.loose(d.name(), tree) })
	case tree["lifecycle"] != nil:
		v.located(d, p, object{}.places(), func() {
			v.refuse(Finding{Object: d.name(), Field: "lifecycle", Text: "is a container's field that holds a block; pass its value only"})
		})
	default: // not only mappings: the check of a block reports what is wrong
		v.located(d, p, object{}.places(), func() { v.block(d.name(), string(d.text)) })
	}
	return nil
}

// located runs a check and sets the lines of its findings.
func (v *validation) located(d document, p *parsed, place func(Finding) pointer, check func()) {
	refused, warned := len(v.report.Refusals), len(v.report.Warnings)
	check()
	d.locate(p, place, v.report.Refusals[refused:])
	d.locate(p, place, v.report.Warnings[warned:])
}

// domain is the part that all keys share.
var domain, _, _ = strings.Cut(oci.KeyLifecycle, "/")

// ours reports whether a key is in this shim's domain, with or without a container's name.
func ours(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	return ok && (prefix == domain || strings.HasSuffix(prefix, "."+domain))
}

// named returns the container that a key names, "" for a general key.
func named(key string) string {
	prefix, _, _ := strings.Cut(key, "/")
	return strings.TrimSuffix(strings.TrimSuffix(prefix, domain), ".")
}

// block checks one value.
func (v *validation) block(object, value string) {
	parsed, problems := oci.Parse(value, v.rules.Limits)
	for _, problem := range problems {
		v.refuse(Finding{Object: object, Field: problem.Path, Text: problem.Problem})
	}
	if len(problems) == 0 {
		v.report.Checked = append(v.report.Checked, Finding{Object: object, Text: "a block with " + describe(&oci.Lifecycle{Block: parsed})})
	}
}

// pod checks the lifecycle that each of its containers will have.
func (v *validation) pod(o object) {
	pod := o.podTree()
	metadata, _ := pod["metadata"].(map[string]any)
	refusals := len(v.report.Refusals)
	annotations, ok := metadata["annotations"].(map[string]any)
	if !ok && metadata["annotations"] != nil {
		v.refuse(Finding{Object: o.name, Field: "metadata.annotations", Text: "must be a mapping"})
	}
	values := v.texts(o.name, annotations)
	spec, _ := pod["spec"].(map[string]any)
	containers := containersOf(spec)
	v.strangers(o.name, values, containers)
	v.report.Refusals = append(v.report.Refusals, misplacedInPod(o.name, o.at.with(o.pod...), pod)...)
	moves := values[oci.KeySidecars] == oci.SidecarsMove
	spoken := v.spoken(o.name, values)
	speaks := false
	for _, c := range containers {
		lifecycle := spoken.to(c.name)
		switch {
		case lifecycle != nil:
			v.around(o.name, c, c.movable(moves || lifecycle.Block.PreStop != nil))
			if !speaks && spec["runtimeClassName"] != v.rules.RuntimeClass {
				v.warn(Finding{Object: o.name, Field: "spec.runtimeClassName", Text: fmt.Sprintf(
					"is not %q: the annotations have no effect unless this shim is the handler of the pod's runtime class", v.rules.RuntimeClass)})
			}
			speaks = true
		case len(c.movable(moves)) > 0:
			v.warn(Finding{Object: o.name, Container: c.name, Field: "lifecycle", Text: "is run by the kubelet and not checked here; lifecyclectl convert moves it to the shim and checks it"})
		}
	}
	if len(values) == 0 && len(v.report.Refusals) == refusals {
		v.report.Checked = append(v.report.Checked, Finding{Object: o.name, Text: "no annotations of " + domain})
	}
}

// texts returns the annotations in our domain. The API server accepts only strings.
func (v *validation) texts(object string, annotations map[string]any) map[string]string {
	values := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !ours(key) {
			continue
		}
		text, ok := annotations[key].(string)
		if !ok {
			v.refuse(Finding{
				Object: object, Container: named(key), Field: fmt.Sprintf("annotation %q", key),
				Text: "must be a string; put the block in quotes, or on separate lines after a |",
			})
			continue
		}
		values[key] = text
	}
	return values
}

// containersOf lists all containers of a pod.
func containersOf(spec map[string]any) []container {
	var all []container
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		items, _ := spec[list].([]any)
		for _, item := range items {
			tree, _ := item.(map[string]any)
			name, _ := tree["name"].(string)
			lifecycle, _ := tree["lifecycle"].(map[string]any)
			all = append(all, container{name: name, list: list, tree: tree, lifecycle: lifecycle})
		}
	}
	return all
}

// shownNames is how many of a pod's containers a warning names.
const shownNames = 10

// strangers warns of keys that name no container of the pod.
func (v *validation) strangers(object string, values map[string]string, containers []container) {
	names := map[string]bool{}
	var shown []string
	for _, c := range containers {
		names[c.name] = true
		if len(shown) < shownNames {
			shown = append(shown, cut(c.name))
		}
	}
	has := strings.Join(shown, ", ")
	if more := len(containers) - len(shown); more > 0 {
		has += fmt.Sprintf(" and %d more", more)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if name := named(key); name != "" && !names[name] {
			v.warn(Finding{Object: object, Field: fmt.Sprintf("annotation %q", key), Text: fmt.Sprintf(
				"names no container of this pod (it has %s), so the shim ignores it", has)})
		}
	}
}

// container checks the lifecycle of a container and returns it.
func (v *validation) container(object, name string, spec *oci.Spec) *oci.Lifecycle {
	if !v.correct(object, name, spec) {
		return nil
	}
	lifecycle, err := spec.Lifecycle()
	if err != nil || lifecycle == nil {
		return nil
	}
	v.accepted(object, name, lifecycle)
	return lifecycle
}

// correct refuses what is wrong with the annotations, and reports whether nothing is.
func (v *validation) correct(object, name string, spec *oci.Spec) bool {
	problems := spec.Problems(v.rules.Limits)
	for _, problem := range problems {
		concerned := name
		if named(problem.Key) == "" {
			concerned = "" // it is about every container of the pod
		}
		finding := Finding{Object: object, Container: concerned, Field: fmt.Sprintf("annotation %q", problem.Key), Text: problem.Problem}
		if problem.Path != "" {
			finding.Text = problem.Path + " " + problem.Problem
		}
		v.refuse(finding)
	}
	return len(problems) == 0
}

func (v *validation) accepted(object, name string, lifecycle *oci.Lifecycle) {
	v.report.Checked = append(v.report.Checked, Finding{Object: object, Container: name, Text: describe(lifecycle)})
}

// around warns if an accepted block may not do what its author expects. native are the
// handlers in spec that convert would move to the shim.
func (v *validation) around(object string, c container, native []string) {
	if len(native) > 0 {
		v.warn(Finding{Object: object, Container: c.name, Field: "lifecycle", Text: "is set as well as the annotation: the kubelet runs the handlers here, and the shim those of the annotation; remove one of the two"})
	}
	if c.list != "containers" && !c.sidecar() {
		v.warn(Finding{Object: object, Container: c.name, Text: "gets handlers, but is neither a main container nor a sidecar: Kubernetes allows no handlers on it; use keys with a container's name"})
	}
}

// spec checks the spec of a bundle.
func (v *validation) spec(object string, tree map[string]any) {
	annotations, _ := tree["annotations"].(map[string]any)
	spec := &oci.Spec{Annotations: v.texts(object, annotations)}
	for key, value := range annotations { // CRI's annotations name the container
		if text, ok := value.(string); ok {
			spec.Annotations[key] = text
		}
	}
	before := len(v.report.Refusals)
	if v.container(object, "", spec) == nil && len(v.report.Refusals) == before {
		v.report.Checked = append(v.report.Checked, Finding{Object: object, Text: "an OCI spec without handlers in its annotations"})
	}
}

// loose checks annotations that belong to no object, for each container that they name and
// for one that they do not name.
func (v *validation) loose(object string, tree map[string]any) {
	spoken := v.spoken(object, v.texts(object, tree))
	spoken.to("")
	for _, name := range slices.Sorted(maps.Keys(spoken.own)) {
		spoken.to(name)
	}
}

// describe says in short what a container will do.
func describe(lifecycle *oci.Lifecycle) string {
	var parts []string
	for _, name := range oci.Handlers {
		if handler := oci.HandlerOf(lifecycle.Block, name); handler != nil {
			parts = append(parts, name+" "+oci.TypeOf(handler))
		}
	}
	if len(parts) == 0 {
		return "no handlers"
	}
	return strings.Join(parts, ", ")
}
