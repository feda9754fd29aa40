package cri

import (
	"slices"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// docs/spec.md#nri: a plugin sees the held start begin and end, and the stop of one that
// has failed. One that registers during the hold is taken in after it, as is a start
// that waits behind it.
func TestCRINRIPlugin(t *testing.T) {
	b := bed.OnOwnCRI(t)
	early := b.ConnectPlugin("10")
	bed.Poll(b.T, "the plugin's synchronization", early.IsSynchronized)
	pod := b.Pod(bed.Annotations{
		"held." + bed.KeyLifecycle:    "{postStart: {" + bed.Shell(bed.WaitForGo) + "}}",
		"failing." + bed.KeyLifecycle: "{postStart: {" + bed.Shell("exit 1") + "}}",
	})
	held, failing, other := b.Create(pod, bed.Obedient, named("held")), b.Create(pod, bed.Obedient, named("failing")), b.Create(pod, bed.Obedient, named("other"))

	result := held.Hold()
	if got := early.Of(held.ID); !slices.Equal(got, []string{"start"}) {
		b.Errorf("during the hold the plugin received %q, want the start alone", got)
	}
	late := b.ConnectPlugin("20")
	behind := other.StartLater(b.Context())
	bed.Poll(b.T, "the task of the start behind it", func() bool { _, err := other.Task().State(b.Context()); return err == nil })
	if late.IsSynchronized() {
		b.Error("containerd has taken in a plugin during a held start")
	}
	held.Touch("go")
	if r := bed.Await(b.T, result); r.Err != nil {
		b.Fatal(r.Err)
	}
	if r := bed.Await(b.T, behind); r.Err != nil {
		b.Fatal(r.Err)
	}
	bed.Poll(b.T, "the late plugin's synchronization", late.IsSynchronized)

	_, err := failing.Start(b.Context())
	failing.WantFailedStart(err, "postStart handler failed: exit status 1")
	held.WaitFor("ready")
	held.MustStop(60 * time.Second)
	held.WantExit(7)
	other.WantState(cri.ContainerState_CONTAINER_RUNNING)
	for c, want := range map[*bed.PodContainer][]string{
		held: {"start", "started", "stop"}, failing: {"start", "stop"}, other: {"start", "started"},
	} {
		bed.Poll(b.T, "the plugin's calls", func() bool { return len(early.Of(c.ID)) >= len(want) })
		if got := early.Of(c.ID); !slices.Equal(got, want) {
			b.Errorf("the plugin received %q, want %q", got, want)
		}
	}
}
