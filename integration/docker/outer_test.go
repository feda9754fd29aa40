package docker

import (
	"testing"
	"time"
)

// preStart and onExit: docker sees the end when onExit has ended, with the status unchanged; a stop meanwhile waits
// for it, at most for docker's own time, which ends it.
func TestPreStartAndOnExit(t *testing.T) {
	b := newBench(t)
	name := b.run("c", spec{
		block: "preStart: {" + shell("touch prestarted") + "}\nonExit: {" + shell(`cat /tmp/kept > told; echo $LIFECYCLE_RESULT >> told; sleep 1`) + "}",
		args:  []string{"sh", "-c", "touch ready; [ -e prestarted ] && echo kept > /tmp/kept && exit 3"},
	})
	b.poll("the end", func() bool { return b.inspect(name, ended) == "exited 3" })
	b.wantRead("told", "kept\nexit-code\n")
	b.remove("told", "prestarted", "ready")

	hanging := b.run("hanging", spec{block: "onExit: {" + shell("touch begun; sleep 1000") + "}", args: []string{"sh", "-c", "touch ready; exit 3"}})
	b.wantFile("begun", "onExit")
	begin := time.Now()
	b.ok("docker", "stop", "-t", "2", hanging)
	if took := time.Since(begin); took > 10*time.Second {
		b.Errorf("the stop takes %s", took)
	}
	b.wantInspect(hanging, ended, "exited 3")
}

// A preStart that fails is docker's error in words.
func TestFailedPreStart(t *testing.T) {
	b := newBench(t)
	s := spec{block: "preStart: {" + shell("echo last words; exit 3") + "}", args: []string{"sh", "-c", "touch wrong; sleep 1000"}}
	out := b.command(b.words(b.name("c"), s)...)
	b.wantSaid(out.Stderr, "preStart handler failed: exit status 3: last words")
	if out.Status == 0 {
		b.Error("docker run succeeds")
	}
}
