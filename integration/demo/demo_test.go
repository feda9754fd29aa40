package main

import (
	"strings"
	"testing"
	"time"
)

func TestParseEvent(t *testing.T) {
	const line = `2026-11-23 00:20:11.372336208 +0000 UTC demo /tasks/exit ` +
		`{"container_id":"web","id":"web","pid":12575,"exit_status":137,"exited_at":{"seconds":1795393211}}`
	e, ok := parseEvent(line)
	if !ok || e.namespace != "demo" || e.topic != "/tasks/exit" || !e.ofContainer() {
		t.Fatalf("parseEvent = %+v, %v", e, ok)
	}
	if want := time.Date(2026, 11, 23, 0, 20, 11, 372336208, time.UTC); !e.at.Equal(want) {
		t.Errorf("time = %v, want %v", e.at, want)
	}
	if e.body.Pid != 12575 || e.body.ExitStatus != 137 {
		t.Errorf("body = %+v", e.body)
	}
	for _, bad := range []string{"", "one two", "time=… level=warning msg=\"cannot unmarshal an event from Any\" a b c {}"} {
		if e, ok := parseEvent(bad); ok {
			t.Errorf("parseEvent(%q) = %+v, want nothing", bad, e)
		}
	}
}

func TestOfContainer(t *testing.T) {
	for _, e := range []eventBody{
		{ContainerID: container, ExecID: "ps1"},     // /tasks/exec-added
		{ContainerID: container, ID: "ps1", Pid: 4}, // /tasks/exit of an exec'd process
		{ContainerID: "other", ID: "other", Pid: 4}, // another container
		{ID: container}, // /containers/create
	} {
		if (event{body: e}).ofContainer() {
			t.Errorf("%+v passes for one of the container's own", e)
		}
	}
}

func TestLineIsShell(t *testing.T) {
	c := &ctr{}
	if got, want := c.line([]string{"task", "ls"}), "ctr task ls"; got != want {
		t.Errorf("line = %q, want %q", got, want)
	}
	if got, want := quote("it's {a: b}"), `'it'\''s {a: b}'`; got != want {
		t.Errorf("quote = %s, want %s", got, want)
	}
	long := c.line([]string{"run", "--annotation", "a=" + strings.Repeat("x y", 40), "image", "web"})
	if !strings.Contains(long, "ctr run \\\n    --annotation 'a=") || !strings.HasSuffix(long, "' image web") {
		t.Errorf("a long line is not broken before its flag: %s", long)
	}
}
