package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// nasty clears the screen, sets the title, does so in one byte, goes back, turns the
// text's direction, and looks like another line and another column.
const nasty = "\x1b[2J\x1b]0;owned\x07\u009b31m\x7f\r\b\u202eabc\u2066\u2028\v\f\tcell\nkube-system  victim  Running\xff"

func encoded(tb testing.TB, message proto.Message) []byte {
	tb.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

var hostileText = strings.ToValidUTF8(nasty, "")

func hostileStatus() *lifecyclev1.StatusResponse {
	run := &lifecyclev1.HandlerRun{
		Handler: hostileText, Type: hostileText, Action: hostileText, Result: hostileText, Error: hostileText, Output: hostileText,
		LogError: hostileText, DeadlineOwner: hostileText, Took: &durationpb.Duration{Seconds: 1}, DroppedBytes: -1,
	}
	pending := proto.Clone(run).(*lifecyclev1.HandlerRun)
	pending.Result, pending.Deadline = "", &timestamppb.Timestamp{Seconds: 1}
	return &lifecyclev1.StatusResponse{Shim: &lifecyclev1.Process{Version: hostileText}, Containers: []*lifecyclev1.ContainerStatus{
		{Id: hostileText, Phase: hostileText, PendingSignal: 1 << 31, Handlers: []string{hostileText}, Runs: []*lifecyclev1.HandlerRun{run, pending, {}}}, {},
	}}
}

// wantInert looks for what a terminal would obey.
func wantInert(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%q is no UTF-8", text)
	}
	for _, r := range text {
		if r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			t.Fatalf("%q holds %q", text, r)
		}
	}
}

// FuzzShown: a terminal only shows the output of handlers and the answers of shims, each
// run in one row, and programs get them unchanged.
func FuzzShown(f *testing.F) {
	f.Add(encoded(f, hostileStatus()))
	f.Add(encoded(f, &lifecyclev1.StatusResponse{Containers: []*lifecyclev1.ContainerStatus{{Runs: []*lifecyclev1.HandlerRun{{
		Took: &durationpb.Duration{Seconds: 1 << 62, Nanos: -1}, Deadline: &timestamppb.Timestamp{Seconds: -1 << 62, Nanos: 1 << 30}, StartedAt: &timestamppb.Timestamp{Nanos: -1},
	}}}}}))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var response lifecyclev1.StatusResponse
		if proto.Unmarshal(data, &response) != nil {
			return
		}
		var places []place
		rows := 1
		for _, container := range response.Containers {
			places = append(places, place{hostileText, container})
			rows += max(1, len(container.Runs))
		}
		table := shown(t, func(out io.Writer) error { return printTable(out, nil, places) })
		if lines := strings.Count(table, "\n"); lines != rows {
			t.Errorf("%d lines for %d rows: %q", lines, rows, table)
		}
		for _, container := range response.Containers {
			for _, run := range container.Runs {
				shown(t, func(out io.Writer) error { return printRun(out, run) })
			}
		}
		if sane(&response) != nil {
			return // such an answer is not taken
		}
		shims := []*shim{{shimProcess: shimProcess{namespace: hostileText}, process: response.Shim}}
		want, err := document(shims, places)
		if err != nil {
			t.Fatal(err)
		}
		shown(t, func(out io.Writer) error { return printYAML(out, shims, places) })
		var got, meant any
		if err := json.Unmarshal([]byte(shown(t, func(out io.Writer) error { return printJSON(out, shims, places) })), &got); err != nil {
			t.Fatal(err)
		}
		if text, err := json.Marshal(want); err != nil || json.Unmarshal(text, &meant) != nil || !reflect.DeepEqual(got, meant) {
			t.Errorf("programs get %v, which is %v", got, meant)
		}
	})
}

// shown is what reaches a terminal.
func shown(t *testing.T, print func(io.Writer) error) string {
	t.Helper()
	var out bytes.Buffer
	if err := print(terminal{&out}); err != nil {
		t.Fatal(err)
	}
	wantInert(t, out.String())
	return out.String()
}

// FuzzEvent: any event is printed as one line.
func FuzzEvent(f *testing.F) {
	finished := &lifecyclev1.HandlerFinished{ContainerId: hostileText, Handler: hostileText, Type: hostileText, Result: hostileText, Message: hostileText, Attempts: 2, Trial: true}
	for _, topic := range []string{"/lifecycle/handler-started", "/lifecycle/handler-finished", hostileText} {
		f.Add(topic, hostileText, encoded(f, finished))
	}
	f.Fuzz(func(t *testing.T, topic, namespace string, value []byte) {
		envelope := &types.Envelope{Topic: topic, Namespace: namespace, Event: &anypb.Any{Value: value}}
		for _, format := range []string{"text", "json"} {
			var out bytes.Buffer
			if err := printEvent(terminal{&out}, envelope, format); err != nil {
				return // it cannot be decoded
			}
			wantInert(t, out.String())
			if strings.Count(out.String(), "\n") != 1 {
				t.Errorf("%q is not one line", out.String())
			}
			if format == "json" && !json.Valid(out.Bytes()) {
				t.Errorf("%q is no JSON", out.String())
			}
		}
	})
}

// FuzzShimAnswers: for any bytes from a shim's socket, the call returns in time, and its
// result can be printed.
func FuzzShimAnswers(f *testing.F) {
	frame := func(length uint32, stream uint32, kind byte, payload []byte) []byte {
		header := binary.BigEndian.AppendUint32(nil, length)
		header = append(binary.BigEndian.AppendUint32(header, stream), kind, 0)
		return append(header, payload...)
	}
	status := encoded(f, hostileStatus())
	// ttrpc.Response: field 2 is the payload.
	response := append(append([]byte{0x12}, binary.AppendUvarint(nil, uint64(len(status)))...), status...)
	f.Add(frame(uint32(len(response)), 1, 2, response))
	f.Add(frame(1<<32-1, 1, 2, nil))
	f.Add(frame(4<<20, 1, 2, []byte("x")))
	f.Add(frame(0, 1, 2, nil))
	f.Add(frame(0, 1, 3, nil))
	f.Add(frame(0, 7, 2, nil))
	f.Add(frame(2, 1, 2, []byte{0x0a, 0xff}))
	f.Add([]byte(nil))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ours, its := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			defer its.Close()
			go func() { _, _ = io.Copy(io.Discard, its) }() // the question
			_, _ = its.Write(text)
		}()
		began := time.Now()
		s, err := shimProcess{pid: 1}.askOver(t.Context(), ours)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		if err == nil {
			for _, container := range s.containers {
				shown(t, func(out io.Writer) error { return printTable(out, nil, []place{{"x", container}}) })
				shown(t, func(out io.Writer) error { return printJSON(out, nil, []place{{"x", container}}) })
			}
			_ = s.client.Close()
		}
		_ = ours.Close()
		<-served
	})
}
