package podgen

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestPodsFollowFromTheirSeeds, and survive their own JSON.
func TestPodsFollowFromTheirSeeds(t *testing.T) {
	for seed := range uint64(200) {
		text := JSON(seed)
		if !bytes.Equal(text, JSON(seed)) {
			t.Fatalf("seed %d gives two pods", seed)
		}
		var read corev1.Pod
		if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(&read, Pod(seed)) {
			t.Fatalf("seed %d is read as another pod: %v", seed, err)
		}
	}
	if bytes.Equal(JSON(1), JSON(2)) {
		t.Error("two seeds give one pod")
	}
}

// TestPodsHaveItAll: what a thousand pods must hold to be worth a comparison.
func TestPodsHaveItAll(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(1000) {
		pod := Pod(seed)
		if pod.Spec.TerminationGracePeriodSeconds == nil {
			seen["no grace period"]++
		} else if *pod.Spec.TerminationGracePeriodSeconds == 0 {
			seen["a grace period of 0"]++
		}
		for key := range pod.Annotations {
			if strings.HasSuffix(key, ".lifecycle-shim.io/lifecycle") {
				seen["a named annotation"]++
			} else if strings.HasPrefix(key, "lifecycle-shim.io/") {
				seen["a general annotation"]++
			}
		}
		for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			count(seen, c)
		}
		for _, c := range pod.Spec.InitContainers {
			if c.RestartPolicy == nil {
				seen["init"]++
			} else if c.Lifecycle != nil {
				seen["sidecar"]++
			}
		}
	}
	for _, what := range []string{
		"no grace period", "a grace period of 0", "a named annotation", "a general annotation", "init", "sidecar", "no lifecycle", "empty lifecycle",
		"only a signal", "signal", "exec", "httpGet", "tcpSocket", "sleep", "a named port", "headers", "no path", "long", "quote", "backslash", "control", "U+2028", "astral",
	} {
		if seen[what] < 10 {
			t.Errorf("%s: %d times", what, seen[what])
		}
	}
}

func count(seen map[string]int, c corev1.Container) {
	lifecycle := c.Lifecycle
	switch {
	case lifecycle == nil:
		seen["no lifecycle"]++
		return
	case *lifecycle == corev1.Lifecycle{}:
		seen["empty lifecycle"]++
	case lifecycle.PostStart == nil && lifecycle.PreStop == nil:
		seen["only a signal"]++
	case lifecycle.StopSignal != nil:
		seen["signal"]++
	}
	for _, handler := range []*corev1.LifecycleHandler{lifecycle.PostStart, lifecycle.PreStop} {
		if handler != nil {
			countHandler(seen, handler)
		}
	}
}

func countHandler(seen map[string]int, handler *corev1.LifecycleHandler) {
	switch {
	case handler.Exec != nil:
		seen["exec"]++
		text := strings.Join(handler.Exec.Command, "")
		for what, part := range map[string]string{"quote": `"`, "backslash": `\`, "control": "\u0001", "U+2028": "\u2028", "astral": "😀"} {
			if strings.Contains(text, part) {
				seen[what]++
			}
		}
		if len(text) > longText {
			seen["long"]++
		}
	case handler.HTTPGet != nil:
		seen["httpGet"]++
		if handler.HTTPGet.Port.StrVal != "" {
			seen["a named port"]++
		}
		if handler.HTTPGet.HTTPHeaders != nil {
			seen["headers"]++
		}
		if handler.HTTPGet.Path == "" {
			seen["no path"]++
		}
	case handler.TCPSocket != nil:
		seen["tcpSocket"]++
	case handler.Sleep != nil:
		seen["sleep"]++
	}
}
