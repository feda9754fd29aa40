package hookexec

import (
	"testing"
	"testing/synctest"
)

// TestReleaseWaitsForTheRequest: the sender uses the channel. After close, its descriptor could be another file's.
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
			t.Error("release returned while the request was being sent")
		}
		close(sent)
		synctest.Wait()
		if !released {
			t.Error("release did not return after the request was sent")
		}
	})
}
