package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
)

// FAULTS B1: what has slipped past the mutating webhook is refused, in words that name
// the cause; what was moved, or is not this shim's, is let in.
func TestB1Validate(t *testing.T) {
	moved := strings.Replace(page, `"lifecycle":{`, `"other":{`, 1)
	for name, test := range map[string]struct{ pod, refused string }{
		"not moved":         {page, "spec.containers.0.lifecycle is still in spec, where the kubelet would run them, not RuntimeClass lifecycle"},
		"moved":             {moved, ""},
		"another class":     {strings.Replace(page, `"runtimeClassName":"lifecycle"`, `"runtimeClassName":"gvisor"`, 1), ""},
		"Windows":           {strings.Replace(page, `"containers"`, `"os":{"name":"windows"},"containers"`, 1), ""},
		"what cannot be":    {strings.Replace(page, `"name":"web"`, `"name":"A"`, 1), `container A: name: is "A"`},
		"a sidecar's own":   {strings.Replace(moved, `"containers"`, `"initContainers":[{"name":"s","restartPolicy":"Always","lifecycle":{"preStop":{"sleep":{"seconds":1}}}}],"containers"`, 1), ""},
		"twice, and differ": {strings.Replace(page, `"name":"lifecycle-demo"`, `"name":"a","annotations":{"web.lifecycle-shim.io/lifecycle":"{preStop: {sleep: {seconds: 1}}}"}`, 1), "is not what the annotation"},
	} {
		t.Run(name, func(t *testing.T) {
			response, _ := answer(t, validate, newRequest(test.pod))
			if response.Patch != nil || len(response.Warnings) > 0 || response.Allowed != (test.refused == "") {
				t.Fatalf("got %+v", response)
			}
			if test.refused != "" && !strings.Contains(response.Result.Message, test.refused) {
				t.Errorf("it says %s", response.Result.Message)
			}
		})
	}
	var many strings.Builder
	for i := range 10 {
		fmt.Fprintf(&many, `{"name":"c%d","lifecycle":{"preStop":{"sleep":{"seconds":1}}}},`, i)
	}
	response, _ := answer(t, validate, newRequest(`{"spec":{"runtimeClassName":"lifecycle","containers":[`+strings.TrimSuffix(many.String(), ",")+"]}}"))
	if want := "spec.containers.2.lifecycle and 7 more are still in spec"; !strings.Contains(response.Result.Message, want) {
		t.Errorf("it says %s", response.Result.Message)
	}
}

// FAULTS A3: eight bodies of 8 MiB at once need less than 64 MiB with any content, and all
// are answered.
func TestA3Memory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(GCPercent))
	const each, most = 8 << 20, 64 << 20
	filled := func(before, item, after string) []byte {
		body := reviewOf(t, `{"spec":{"runtimeClassName":"lifecycle","x":0}}`)
		object := before + strings.Repeat(item, (each-len(body)-len(before)-len(after)-len(item))/len(item)) + after
		return bytes.Replace(body, []byte(`{"spec":{"runtimeClassName":"lifecycle","x":0}}`), []byte(object), 1)
	}
	for name, parts := range map[string][3]string{
		"env":      {`{"metadata":{"name":"p"},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"a","lifecycle":{"preStop":{"sleep":{"seconds":1}}},"env":[`, `{"name":"a","value":"b"},`, `{}]}]}}`},
		"handlers": {`{"spec":{"runtimeClassName":"lifecycle","containers":[`, `{"name":"a","lifecycle":{"preStop":{"httpGet":{"port":"x"}}}},`, `{}]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			body := filled(parts[0], parts[1], parts[2])
			server := New(Config{RuntimeClass: "lifecycle", Limits: DefaultLimits()})
			server.config.Limits.Wait, server.config.Limits.Answer = time.Hour, time.Hour // the race detector is slow
			handler := server.handler()
			runtime.GC()
			peak, before := watchHeap(t), heap()
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					recorder := httptest.NewRecorder()
					handler.ServeHTTP(recorder, newPost(bytes.NewReader(body)))
					if recorder.Code != http.StatusOK || recorder.Body.Len() > 64<<10 {
						t.Errorf("got %d, %d bytes: %.200s", recorder.Code, recorder.Body.Len(), recorder.Body)
					}
				})
			}
			all.Wait()
			if extra := peak() - before; extra > most {
				t.Errorf("%d MiB more were in use", extra>>20)
			} else {
				t.Logf("%d MiB more were in use", extra>>20)
			}
		})
	}
}

func newPost(body io.Reader) *http.Request {
	request := httptest.NewRequest(http.MethodPost, Path, body)
	request.Header.Set("Content-Type", "application/json")
	return request
}

// heap is what objects take, those included that wait to be collected.
func heap() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// watchHeap returns a function that returns the most that was seen until then.
func watchHeap(t *testing.T) func() int64 {
	t.Helper()
	done, seen := make(chan struct{}), make(chan int64)
	go func() {
		most := heap()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				seen <- max(most, heap())
				return
			case <-tick.C:
				most = max(most, heap())
			}
		}
	}()
	return func() int64 { close(done); return <-seen }
}

// A request that gets no memory in time gets 503, and the next one is answered.
func TestA3NoMemory(t *testing.T) {
	limits := DefaultLimits()
	limits.Memory, limits.Wait = 1<<20, 20*time.Millisecond
	r := run(t, limits)
	body := reviewOf(t, page)
	conn, reader := r.begun(1 << 20) // all of it
	response, text := r.ask(r.request("POST", Path, string(body)))
	if response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "other requests use all the memory") {
		t.Errorf("got %s: %s", response.Status, text)
	}
	if _, err := conn.Write(append(body, bytes.Repeat([]byte(" "), 1<<20-len(body))...)); err != nil {
		t.Fatal(err)
	}
	first, err := http.ReadResponse(reader, nil)
	if err != nil || first.StatusCode != http.StatusOK {
		t.Fatalf("the first one: %v, %v", first, err)
	}
	first.Body.Close()
	if response, text := r.ask(r.request("POST", Path, string(body))); response.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %s: %s", response.Status, text)
	}
}

// The work for a request ends when its client goes, by either protocol.
func TestA3ClientGoes(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		server := New(Config{RuntimeClass: "lifecycle", Limits: DefaultLimits()})
		begun, ended := make(chan struct{}), make(chan error, 1)
		serving := httptest.NewUnstartedServer(server.review(func(ctx context.Context, _ *request, _ convert.Rules) (*admissionv1.AdmissionResponse, string, error) {
			close(begun)
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, "", ctx.Err()
		}))
		serving.EnableHTTP2 = http2
		serving.StartTLS()
		ctx, cancel := context.WithCancel(t.Context())
		asked, err := http.NewRequestWithContext(ctx, http.MethodPost, serving.URL, bytes.NewReader(reviewOf(t, page)))
		if err != nil {
			t.Fatal(err)
		}
		asked.Header.Set("Content-Type", "application/json")
		go func() {
			<-begun
			cancel()
		}()
		if response, err := serving.Client().Do(asked); err == nil {
			response.Body.Close()
			t.Error("there is an answer")
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("HTTP/2 %t: the work ended with %v", http2, err)
		}
		serving.Close()
	}
}

// What is said is bounded, however much is wrong.
func TestWordsAreBounded(t *testing.T) {
	var containers strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&containers, `{"name":"c%d","lifecycle":{"preStop":{"httpGet":{"port":%q}}}},`, i, strings.Repeat("x", 100))
	}
	pod := func(more string) string {
		return `{"metadata":{"name":"p"},"spec":{"runtimeClassName":"lifecycle","containers":[` + strings.TrimSuffix(containers.String(), ",") + `]` + more + `}}`
	}
	response, _ := answer(t, mutate, newRequest(pod("")))
	if said := response.Result.Message; len(said) > maxWords || !strings.Contains(said, "; and ") || !strings.HasSuffix(said, " more") {
		t.Errorf("%d bytes are said, ending in %q", len(said), said[max(0, len(said)-40):])
	}
	var sidecars strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&sidecars, `{"name":"s%d","restartPolicy":"Always","lifecycle":{"preStop":{"sleep":{"seconds":1}}}},`, i)
	}
	response, _ = answer(t, mutate, newRequest(`{"metadata":{"name":"p"},"spec":{"runtimeClassName":"lifecycle","initContainers":[`+strings.TrimSuffix(sidecars.String(), ",")+`]}}`))
	if said := strings.Join(response.Warnings, ""); !response.Allowed || len(said) > maxWords || !strings.HasPrefix(response.Warnings[len(response.Warnings)-1], "and ") {
		t.Errorf("%d bytes are warned", len(said))
	}
}

// FuzzReviewCost: no review costs more than a multiple of its length, in memory
// allocated and in words answered.
func FuzzReviewCost(f *testing.F) {
	const base, perByte = 2 << 20, 512
	f.Add(reviewOf(f, page))
	for seed := range uint64(20) {
		f.Add(reviewOf(f, string(podgen.JSON(seed))))
	}
	for _, pod := range []string{
		`{"spec":{"runtimeClassName":"lifecycle","containers":[` + strings.Repeat(`{"name":"a","lifecycle":{"preStop":{"sleep":{"seconds":1}}}},`, 200) + `{}]}}`,
		`{"metadata":{"annotations":{` + strings.Repeat(`"a.lifecycle-shim.io/x":"",`, 200) + `"b":""}},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"a","lifecycle":{"preStop":{"sleep":{}}}}]}}`,
		`{"metadata":{"annotations":{"lifecycle-shim.io/lifecycle":"` + strings.Repeat(`a:\n`, 500) + `"}},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"a","lifecycle":{"preStop":{"sleep":{}}}}]}}`,
		`{"spec":{"runtimeClassName":"lifecycle","containers":[{"ports":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `,"lifecycle":{"preStop":{"httpGet":{"port":"a"}}}}]}}`,
	} {
		f.Add(reviewOf(f, pod))
	}
	server := New(Config{RuntimeClass: "lifecycle", Limits: DefaultLimits()})
	handler := server.handler()
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{Path, ValidatePath} {
			recorder := httptest.NewRecorder()
			request := newPost(bytes.NewReader(body))
			request.URL.Path = path
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			handler.ServeHTTP(recorder, request)
			runtime.ReadMemStats(&after)
			if cost := after.TotalAlloc - before.TotalAlloc; cost > base+perByte*uint64(len(body)) {
				t.Errorf("%s: %d bytes are allocated for a body of %d", path, cost, len(body))
			}
			if said := recorder.Body.Len(); said > 16<<10+4*len(body) {
				t.Errorf("%s: the answer to a body of %d bytes has %d", path, len(body), said)
			}
		}
	})
}
