package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	kjson "k8s.io/apimachinery/pkg/util/json"
)

const (
	// maxContainers bounds a pod in an admission request. etcd takes objects of
	// 1.5 MiB, and the API server writes 120 bytes of defaults for each container.
	maxContainers = 1 << 14
	// maxRead bounds the parts of such a pod that are decoded: handlers, ports,
	// annotations, affinity. Annotations may take half of it, and so may handlers, which
	// become annotations.
	maxRead = 2 * maxAnnotations
)

// errTooLarge is the error for pods that no API server would store.
var errTooLarge = fmt.Errorf("has more than %d containers, or more than %d bytes of handlers, ports, annotations and affinity, which no API server stores", maxContainers, maxRead)

// Pod converts a Pod in JSON, as in an admission request. It returns no operations if
// nothing changes. A pod of another RuntimeClass is left alone without a warning. Pod decodes
// only the parts that it needs, so its memory is bounded for a pod of any size. It returns
// early with ctx's error when ctx ends.
func Pod(ctx context.Context, data []byte, rules Rules) ([]Operation, *Report, error) {
	report := &Report{}
	tree, err := admitted(ctx, data, rules.RuntimeClass)
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case err != nil:
		report.refuse(Finding{Text: err.Error()})
		return nil, report, nil
	case tree == nil:
		return nil, report, nil
	}
	operations := convertPod(ctx, report, rules, nameOf(tree, "Pod", "without a name"), nil, tree)
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if len(report.Refusals) > 0 {
		return nil, report, nil
	}
	return operations, report, nil
}

// text is a part of the JSON that is being read. It is not a copy.
type text []byte

func (t *text) UnmarshalJSON(data []byte) error {
	*t = data
	return nil
}

// podText holds the parts of a pod that are read. All others are skipped.
type podText struct {
	Metadata *struct {
		Name         text `json:"name"`
		GenerateName text `json:"generateName"`
		Annotations  text `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		RuntimeClassName    text          `json:"runtimeClassName"`
		GracePeriod         text          `json:"terminationGracePeriodSeconds"`
		OS                  text          `json:"os"`
		NodeSelector        text          `json:"nodeSelector"`
		Affinity            text          `json:"affinity"`
		SecurityContext     securityText  `json:"securityContext"`
		Containers          containerText `json:"containers"`
		InitContainers      containerText `json:"initContainers"`
		EphemeralContainers containerText `json:"ephemeralContainers"`
	} `json:"spec"`
}

type securityText struct {
	WindowsOptions text `json:"windowsOptions"`
}

// containerText is a list of containers.
type containerText = text

// reader decodes texts, up to maxRead bytes in total.
type reader struct {
	left int
	err  error
}

// value decodes a text and keeps numbers as they are written.
func (r *reader) value(from text) any {
	if r.left -= len(from); r.left < 0 {
		r.err = errTooLarge
	}
	if len(from) == 0 || r.err != nil {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(from))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		r.err = err
	}
	return value
}

// admitted returns the parts of the pod that convertPod reads, nil if the pod is of another
// class.
func admitted(ctx context.Context, data []byte, runtimeClass string) (map[string]any, error) {
	var pod podText
	if err := kjson.Unmarshal(data, &pod); err != nil {
		return nil, errors.New("is not a pod in JSON")
	}
	r := &reader{left: maxRead}
	if r.value(pod.Spec.RuntimeClassName) != runtimeClass {
		return nil, r.err
	}
	spec := map[string]any{"runtimeClassName": runtimeClass}
	for key, from := range map[string]text{
		"terminationGracePeriodSeconds": pod.Spec.GracePeriod, "os": pod.Spec.OS, "nodeSelector": pod.Spec.NodeSelector, "affinity": pod.Spec.Affinity,
	} {
		spec[key] = r.value(from)
	}
	spec["securityContext"] = map[string]any{"windowsOptions": r.value(pod.Spec.SecurityContext.WindowsOptions)}
	tree := map[string]any{"spec": spec}
	if pod.Metadata != nil {
		tree["metadata"] = map[string]any{
			"name": r.value(pod.Metadata.Name), "generateName": r.value(pod.Metadata.GenerateName), "annotations": r.value(pod.Metadata.Annotations),
		}
	}
	left := maxContainers
	for key, from := range map[string]text{
		"containers": pod.Spec.Containers, "initContainers": pod.Spec.InitContainers, "ephemeralContainers": pod.Spec.EphemeralContainers,
	} {
		list, err := r.containers(ctx, from, &left)
		if err != nil {
			return nil, err
		}
		spec[key] = list
	}
	return tree, r.err
}

// bare is a container of which only the name matters. A mapping would take 300 bytes.
type bare string

// containers reads a list of containers and keeps their order. left is how many more the
// pod may have.
func (r *reader) containers(ctx context.Context, from text, left *int) ([]any, error) {
	var list []any
	for item := range items(from) {
		if *left--; *left < 0 {
			return nil, errTooLarge
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var one struct {
			Name            text         `json:"name"`
			Lifecycle       text         `json:"lifecycle"`
			Ports           text         `json:"ports"`
			RestartPolicy   text         `json:"restartPolicy"`
			SecurityContext securityText `json:"securityContext"`
		}
		if err := kjson.Unmarshal(item, &one); err != nil {
			return nil, errors.New("has a container that is not a mapping")
		}
		name := r.value(one.Name)
		tree := map[string]any{}
		if lifecycle := r.value(one.Lifecycle); lifecycle != nil {
			tree["lifecycle"], tree["ports"], tree["restartPolicy"] = lifecycle, r.value(one.Ports), r.value(one.RestartPolicy)
		}
		if options := r.value(one.SecurityContext.WindowsOptions); options != nil {
			tree["securityContext"] = map[string]any{"windowsOptions": options}
		}
		if r.err != nil {
			return nil, r.err
		}
		if text, isText := name.(string); isText && len(tree) == 0 {
			list = append(list, bare(text))
			continue
		}
		tree["name"] = name
		list = append(list, tree)
	}
	return list, nil
}

// items yields the items of a list whose JSON is known to be valid. It allocates nothing,
// so a list of a million empty items needs no more memory than its text.
func items(list text) func(yield func(text) bool) {
	return func(yield func(text) bool) {
		if len(list) == 0 || list[0] != '[' {
			return
		}
		depth, start, quoted := 0, 1, false
		for i := 0; i < len(list); i++ {
			switch char := list[i]; {
			case quoted && char == '\\':
				i++ // an escaped quote does not end the string
			case char == '"':
				quoted = !quoted
			case quoted:
			case char == '[' || char == '{':
				depth++
			case char == ']' || char == '}':
				depth--
			}
			atEnd := depth == 0
			if !atEnd && (quoted || depth != 1 || list[i] != ',') {
				continue
			}
			if item := bytes.TrimSpace(list[start:i]); len(item) > 0 && !yield(item) || atEnd {
				return
			}
			start = i + 1
		}
	}
}
