package bed

import (
	"strings"
	"testing"
	"time"

	_ "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

func Later(request func() (time.Duration, error)) <-chan Answer {
	result := make(chan Answer, 1)
	go func() {
		took, err := request()
		result <- Answer{err, took}
	}()
	return result
}

// Answer is how a start, or another request that takes its time, went.
type Answer struct {
	Err  error
	Took time.Duration
}

func (b *Bench) Await(result <-chan Answer) Answer {
	b.Helper()
	return Await(b.T, result)
}

// Await to a request that is being made in the background.
func Await(t *testing.T, result <-chan Answer) Answer {
	t.Helper()
	select {
	case r := <-result:
		return r
	case <-time.After(2 * Limit): // a stop may have limit for its grace period
		t.Fatal("the request is not answered")
		return Answer{}
	}
}

func (b *Bench) WantError(err error, parts ...string) {
	b.Helper()
	WantError(b.T, err, parts...)
}

func WantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}
