package convert

import (
	"maps"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// spoken sorts annotations by the container that they are for, so that each one is read
// once and not once for each container.
type spoken struct {
	*validation
	object string
	// general are the known keys for all containers.
	general map[string]string
	// own are the keys that name a container.
	own map[string]map[string]string
	// forAll is the lifecycle in general, valid when hasRead is set.
	forAll  *oci.Lifecycle
	hasRead bool
}

// spoken sorts annotations and reports unknown general keys.
func (v *validation) spoken(object string, values map[string]string) *spoken {
	s := &spoken{validation: v, object: object, general: map[string]string{}, own: map[string]map[string]string{}}
	rest := map[string]string{}
	for key, value := range values {
		switch name := named(key); {
		case name != "" && s.own[name] == nil:
			s.own[name] = map[string]string{key: value}
		case name != "":
			s.own[name][key] = value
		default:
			rest[key] = value
		}
	}
	for _, key := range oci.Keys() {
		if value, ok := rest[key]; ok {
			s.general[key] = value
			delete(rest, key)
		}
	}
	v.correct(object, "", oci.ContainerSpec(rest, ""))
	return s
}

// to returns the lifecycle that the annotations give a container, nil if they give it none,
// and reports what is wrong with it.
func (s *spoken) to(name string) *oci.Lifecycle {
	own := s.own[name]
	if _, has := own[oci.NamedKey(name)]; has {
		seen := maps.Clone(own)
		maps.Copy(seen, s.general) // for conflicts only: the container's own key wins
		return s.container(s.object, name, oci.ContainerSpec(seen, name))
	}
	s.correct(s.object, name, oci.ContainerSpec(own, name)) // unknown keys
	if !s.hasRead {
		s.hasRead = true
		spec := oci.ContainerSpec(s.general, "")
		if s.correct(s.object, "", spec) {
			s.forAll, _ = spec.Lifecycle()
		}
	}
	if s.forAll != nil {
		s.accepted(s.object, name, s.forAll)
	}
	return s.forAll
}
