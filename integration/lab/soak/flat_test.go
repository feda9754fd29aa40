package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// series of a run with so many handlers, in which usage after n handlers is that of a quiet shim, plus noise, plus leak.
func series(handlers int, leak func(s *Sample, n int)) []Sample {
	noise := rand.New(rand.NewPCG(1, 2))
	var samples []Sample
	for n := handlers / batches; n <= handlers; n += handlers / batches {
		s := Sample{
			Handlers: n, Goroutines: 57, Threads: 11 + noise.IntN(3), Descriptors: 84, HeapKB: 1900 + noise.IntN(60),
			PSSKB: 23500 + noise.IntN(500), AnonymousKB: 9500 + noise.IntN(500),
		}
		if n < handlers/10 { // it warms up
			s.Threads -= 3
			s.HeapKB -= 600
			s.AnonymousKB -= 4000
			s.PSSKB -= 9000
		}
		leak(&s, n)
		samples = append(samples, s)
	}
	return samples
}

// TestFlat: noise and warm-up are no leak, and one in a hundred handlers is, of each kind, from the shortest run on.
func TestFlat(t *testing.T) {
	for _, handlers := range []int{1000, 5000} {
		for name, leak := range map[string]func(s *Sample, n int){
			"":                        func(*Sample, int) {},
			"goroutines":              func(s *Sample, n int) { s.Goroutines += n / 100 },
			"threads":                 func(s *Sample, n int) { s.Threads += n / 100 },
			"descriptors":             func(s *Sample, n int) { s.Descriptors += n / 100 },
			"heap after a collection": func(s *Sample, n int) { s.HeapKB += n / 2 },
			"anonymous memory":        func(s *Sample, n int) { s.AnonymousKB += 4 * n },
		} {
			err := flat(series(handlers, leak))
			switch {
			case name == "" && err != nil:
				t.Errorf("%d handlers, no leak: %v", handlers, err)
			case name != "" && (err == nil || !strings.Contains(err.Error(), "it leaks: "+name) || strings.Count(err.Error(), "it leaks") != 1):
				t.Errorf("%d handlers, leak of %s: %v", handlers, name, err)
			}
		}
	}
}

// TestOneHighSampleIsNoLeak, wherever it is.
func TestOneHighSampleIsNoLeak(t *testing.T) {
	samples := series(1000, func(*Sample, int) {})
	for i := range samples {
		high := append([]Sample(nil), samples...)
		high[i].Goroutines += 50
		if err := flat(high); err != nil {
			t.Errorf("sample %d: %v", i, err)
		}
	}
}

func TestTooFewSamples(t *testing.T) {
	if err := flat(make([]Sample, enough-1)); err == nil || !strings.Contains(err.Error(), "at least 200 handlers") {
		t.Errorf("got %v", err)
	}
}
