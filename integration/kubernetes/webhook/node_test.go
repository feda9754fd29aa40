package webhook

import (
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// The page's pod, with the one line that names the runtime class, runs on a node: the shim has its handlers.
func TestPageOnNode(t *testing.T) {
	nginx, err := image.Build(t.Context(), "../../../.cache", nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Config{BinDir: binDir(), Image: nginx.Archive})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	h := hook(t, c.API)
	kubectl := func(args ...string) string {
		out, err := h.Kubectl(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	h.create(page(t, "lifecycle"))
	if err := h.Bind(t.Context(), "lifecycle-demo"); err != nil {
		t.Fatal(err)
	}
	kubectl("wait", "--for=condition=Ready", "pod/lifecycle-demo", "--timeout="+limit.String())
	if message := kubectl("exec", "lifecycle-demo", "--", "cat", "/usr/share/message"); message != "Hello from the postStart handler\n" {
		t.Errorf("the message is %q", message)
	}
	kubectl("delete", "pod", "lifecycle-demo")
	for _, handler := range []string{"postStart", "preStop"} {
		if began := strings.Count(c.Containerd.Log(), `msg="handler started" handler=`+handler); began != 1 {
			t.Errorf("%s was begun %d times by the shim", handler, began)
		}
	}
}
