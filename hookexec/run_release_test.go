package hookexec

import (
	"testing"
	"testing/synctest"
)

// TestReleaseWaitsForTheRequest: whoever sends it uses the channel, and would go on with a descriptor that is another file's by then.
func TestReleaseWaitsForTheRequest(t *testing.T) {
	channel, files, err := newChannel()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files...)
	_, own := sleeping(t)
	synctest.Test(t, func(t *testing.T) {
		sent, released := make(chan struct{}), false
		run := &execRun{child: &child{process: own, monitor: &testMonitor{}}, channel: channel, sent: sent}
		go func() {
			run.release()
			released = true
		}()
		synctest.Wait()
		if released {
			t.Error("it is released while the request is being sent")
		}
		close(sent)
		synctest.Wait()
		if !released {
			t.Error("it is not released when the request has been sent")
		}
	})
}
