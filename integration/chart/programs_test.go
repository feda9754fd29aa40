package chart

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// containers of a stream, by the name of their object.
func containers(t *testing.T, stream string) map[string]core.Container {
	t.Helper()
	found := map[string]core.Container{}
	for _, object := range objects(t, stream) {
		text, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var set struct {
			Metadata struct{ Name string }
			Spec     struct{ Template core.PodTemplateSpec }
		}
		if err := yaml.Unmarshal(text, &set); err != nil {
			t.Fatal(err)
		}
		for _, container := range set.Spec.Template.Spec.Containers {
			found[set.Metadata.Name] = container
		}
	}
	return found
}

// The programs know the flags that the chart gives them, and take their values.
func TestProgramsTakeTheirFlags(t *testing.T) {
	for name, args := range map[string][]string{
		"default": template("1.30.0"), "full": scenarios["full-1.37"],
		"own certificates": template("1.37.0", "-f", "testdata/full.yaml", "--set", "webhook.certManager.enabled=false"),
	} {
		seen := containers(t, must(t, "helm3", args...))
		for _, object := range []string{"lifecycle-shim-installer", "lifecycle-shim-uninstall", "lifecycle-shim-webhook"} {
			container, ok := seen[object]
			if !ok {
				t.Errorf("%s: there is no %s", name, object)
				continue
			}
			command := append(container.Command, container.Args...)
			program := strings.TrimPrefix(command[0], "/bin/")
			for i := range command {
				command[i] = strings.NewReplacer("$(NODE_NAME)", "one", "$(POD_NAME)", "pod", "$(POD_NAMESPACE)", "lifecycle-shim").Replace(command[i])
				if strings.Contains(command[i], "$(") {
					t.Errorf("%s: %s: no variable is filled in: %s", name, object, command[i])
				}
			}
			must(t, program, append(command[1:], "--help")...) // flags are read before it, and an unknown one is an error
			if _, err := run(t.Context(), t, program, append(command[1:], "--no-such-flag", "--help")...); err == nil {
				t.Errorf("%s takes any flag", program)
			}
		}
	}
}
