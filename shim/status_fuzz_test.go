package shim

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// listen serves the shim's services on a socket until the test ends, as the shim does.
func listen(t *testing.T, s *service) (socket string) {
	t.Helper()
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.UnaryServerInterceptor()))
	if err == nil {
		err = s.RegisterTTRPC(server)
	}
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Error(err)
		}
	})
	return socket
}

// frame is a message as ttrpc puts it on the wire (its PROTOCOL.md): length, stream, type, flags, data.
func frame(stream uint32, kind byte, data []byte) []byte {
	header := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	header = binary.BigEndian.AppendUint32(header, stream)
	return append(append(header, kind, 0), data...)
}

// askRaw sends one request with any bytes, and returns the answer.
func askRaw(t *testing.T, socket, method string, payload []byte) *ttrpc.Response {
	t.Helper()
	request, err := proto.Marshal(&ttrpc.Request{Service: "lifecycle.v1.Lifecycle", Method: method, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const stream, typeRequest, typeResponse = 1, 1, 2
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(frame(stream, typeRequest, request)); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 10)
	if _, err := io.ReadFull(conn, header); err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body := make([]byte, binary.BigEndian.Uint32(header))
	if _, err := io.ReadFull(conn, body); err != nil {
		t.Fatalf("half an answer: %v", err)
	}
	response := &ttrpc.Response{}
	if err := proto.Unmarshal(body, response); err != nil || header[8] != typeResponse {
		t.Fatalf("the answer is a message of type %d, %v", header[8], err)
	}
	return response
}

// FuzzStatusService: for any request of a client, it gets one answer, in words where it is an error; the container
// and those who ask properly see nothing of it.
func FuzzStatusService(f *testing.F) {
	add := func(run bool, request proto.Message) {
		payload, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(run, payload)
		f.Add(!run, payload) // the other method's
		f.Add(run, payload[:len(payload)/2])
	}
	add(false, &lifecyclev1.StatusRequest{})
	add(false, &lifecyclev1.StatusRequest{Id: "c1"})
	add(false, &lifecyclev1.StatusRequest{Id: strings.Repeat("x", 100_000)})
	add(true, &lifecyclev1.RunRequest{Id: "c1", Handler: "preStop"})
	add(true, &lifecyclev1.RunRequest{Id: "c1", Handler: "postStart"})
	add(true, &lifecyclev1.RunRequest{Id: "c1", Handler: "none"})
	add(true, &lifecyclev1.RunRequest{})
	for _, payload := range []string{
		"\x0a\x02\xff\xfe", "\x0a\xff\xff\xff\xff\x0f", "\x08\x01", "\x0b\x0b\x0b\x0c", "\xff", "\x0a\x02c1\x0a\x02c2", "\x12\x00\x12\x07preStop", "{\"id\": \"c1\"}",
	} {
		f.Add(false, []byte(payload))
		f.Add(true, []byte(payload))
	}
	f.Fuzz(func(t *testing.T, run bool, payload []byte) {
		if len(payload) > 1<<20 {
			return // ttrpc takes messages of at most 4 MiB
		}
		// c1 has a preStop and no postStart.
		w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(0, succeeded)}))
		w.c.block.PostStart = nil
		<-w.serve().start(0).done
		socket := listen(t, w.service)
		method := "Status"
		if run {
			method = "Run"
		}
		response := askRaw(t, socket, method, payload)
		checkAnswer(t, run, payload, response)
		checkUnharmed(t, w, socket)
	})
}

// checkAnswer holds an answer against what the payload is to protobuf's own reader.
func checkAnswer(t *testing.T, run bool, payload []byte, response *ttrpc.Response) {
	t.Helper()
	code := codes.Code(response.GetStatus().GetCode())
	if code != codes.OK && response.GetStatus().GetMessage() == "" {
		t.Errorf("the error %s has no words", code)
	}
	want := codes.NotFound
	if run {
		var request lifecyclev1.RunRequest
		if err := proto.Unmarshal(payload, &request); err != nil {
			want = codes.Internal // ttrpc's own answer
		} else if request.Id == "c1" && request.Handler == "preStop" {
			want = codes.OK
		}
	} else {
		var request lifecyclev1.StatusRequest
		if err := proto.Unmarshal(payload, &request); err != nil {
			want = codes.Internal // ttrpc's own answer
		} else if request.Id == "c1" || request.Id == "" {
			want = codes.OK
		}
	}
	if code != want {
		t.Errorf("%q is answered with %s (%s), want %s", payload, code, response.GetStatus().GetMessage(), want)
	}
}

// checkUnharmed asks as lifecyclectl does, on the same socket.
func checkUnharmed(t *testing.T, w *world, socket string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	response, err := lifecyclev1.NewLifecycleClient(client).Status(t.Context(), &lifecyclev1.StatusRequest{})
	if err != nil || len(response.Containers) != 1 {
		t.Fatalf("got %v, %v", response, err)
	}
	told := response.Containers[0]
	if told.Id != "c1" || told.Phase != lifecycle.StageRunning.String() || told.PendingSignal != 0 || told.StartHeld {
		t.Errorf("the container is %v", told)
	}
	for _, run := range told.Runs {
		if !run.Trial || run.Result == "" {
			t.Errorf("a request has run %v", run)
		}
	}
	if signals := w.forwarded(); len(signals) > 0 || w.state() != task.Status_RUNNING {
		t.Errorf("signals %v have been sent, and the state is %s", signals, w.state())
	}
}

// TestBytesThatAreNoRequest: what does not even speak ttrpc ends its own connection at most.
func TestBytesThatAreNoRequest(t *testing.T) {
	w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(0, succeeded)})).serve()
	<-w.start(0).done
	socket := listen(t, w.service)
	for _, bytes := range [][]byte{
		nil, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), frame(0, 1, nil), frame(2, 1, nil), frame(1, 2, []byte("x")), frame(1, 3, []byte("x")), frame(1, 9, nil),
		frame(1, 1, []byte("\xff\xff\xff")),
		{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0},
		{0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 'x'},
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(bytes)
		checkUnharmed(t, w, socket) // while it is connected
		_ = conn.Close()
		checkUnharmed(t, w, socket)
	}
}
