package bed

import (
	"strings"
	"testing"
	"time"
)

// Later makes a request in the background. The channel gets its answer.
func Later(request func() (time.Duration, error)) <-chan Answer {
	result := make(chan Answer, 1)
	go func() {
		took, err := request()
		result <- Answer{Err: err, Took: took}
	}()
	return result
}

// Answer is the result of a request that may take long.
type Answer struct {
	Err  error
	Took time.Duration
}

// Await returns the answer to a request that is made in the background.
func (b *Bench) Await(result <-chan Answer) Answer {
	b.Helper()
	return Await(b.T, result)
}

// Await returns the answer to a request that is made in the background.
func Await(t *testing.T, result <-chan Answer) Answer {
	t.Helper()
	select {
	case r := <-result:
		return r
	case <-time.After(2 * Limit): // a stop may have Limit as its grace period
		t.Fatal("the request does not return")
		return Answer{}
	}
}

// WantError fails the test unless the error has all of these parts.
func (b *Bench) WantError(err error, parts ...string) {
	b.Helper()
	WantError(b.T, err, parts...)
}

// WantError ends the test if there is no error, and fails it if the error lacks one of these parts.
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
