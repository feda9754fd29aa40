// Package shim puts lifecycle handlers around containerd's own runc task service.
//
// # What is wrapped
//
// service embeds the runc service. It overrides Create and Shutdown for every container, and
// Start, State, Kill, Wait, Pids and Delete for containers whose annotations ask for
// handlers. Of a Delete of another container it notes only the id. Every other call goes
// straight to the runc service.
//
// # Who owns what
//
// Each container with handlers has one goroutine (container.loop). It owns the container's
// lifecycle.Machine, the only place where anything is decided. Data goes one way:
//
//	request → event    a request's goroutine sends the loop an event and waits for its verdict
//	effect  → call     the loop carries out effects, and waits for none of them
//	exit    → event    the tap (internal/tap) sees TaskExit and posts it to the loop
//
// The goroutines of the requests call the runc service, so a call blocks only its own
// request. Each handler runs in its own goroutine (internal/runner), which ends soon after
// the loop has cancelled its context. One goroutine of the tap forwards the events of the
// whole pod; no other goroutine ever waits for containerd.
//
// # Who knows of an exit
//
// The runc service reaps the container's process, and State then returns STOPPED. Four
// places learn of the exit, in this order:
//
//  1. hookexec.Init, only if a handler fails meanwhile, asks the kernel: the init is exiting
//     before it can be reaped, and the handler has failed because of that.
//  2. tap.Gate sees TaskExit published. It holds the event if there is an onExit, and a
//     Delete waits in AwaitEnd until the tap has seen TaskExit and TaskDelete.
//  3. The loop's mailbox gets ContainerExited, from which lifecycle.Machine decides what
//     follows. The container's stage is what clients see.
//  4. container.exited is closed once the event is in the mailbox. Handlers and trials end
//     with it, so that the loop takes the exit before the end of a handler.
//
// A client may know of an exit before its event: noteExit asks the runc service and posts
// the event, so that the machine is never behind its client. Two more channels concern the
// exit and say something else: container.ended is closed when clients may learn of the exit,
// after onExit, and container.deleted when the container is gone.
//
// # The first handler
//
// A start waits for its first handler, preStart or postStart, so the runner does before the
// start what it can. It prepares while the runtime creates the container, and then begins
// the handler and parks its process inside the container (Park). The process continues when
// the machine runs the handler. A Kill or a Delete ends a parked process first (Unpark): the
// container's pid namespace cannot end before it has been reaped. If the handler runs
// nevertheless, it begins again.
//
// # OnExit
//
// An onExit begins after the process has exited. The runner keeps the namespaces open from
// the creation on (hookexec.Kept), the tap holds TaskExit, and Wait and Delete wait for the
// loop. The delete action removes the leftover of a dead shim (internal/launch).
//
// # What is shown
//
// statusService shows the machine's status after its last step, and the runs (runlog).
// observer logs, counts and publishes events. A trial, an operator's run of a handler, is
// unknown to the machine; it is aborted when the machine runs a handler.
//
// A handler's lines go to the container's log in a goroutine of their own for each run with
// output Log (internal/containerlog), and the node's counters in one goroutine while there
// is something to add (metrics.Adder). Nothing waits for them, except that the shim waits at
// most 2 s for the counters when it ends. The output of processes that handlers leave in
// the background is read and dropped until the container exits (hookexec.Background, two
// goroutines for each container that has such processes).
//
// # The end of the shim
//
// ending puts containerd's Shutdown off while a Create is under way, or announced by the
// start action (service Launch). Every answer passes bounds.Answer.
//
// # Locks
//
// ending.mu is held while the runc service decides whether to shut down, which takes that
// service's own lock, and none of this package. service.mu guards the map of containers,
// container.mu its mailbox and its trial, runlog.mu its runs, tap.Tap the held events. None
// of them is held while another one is taken or anything is called; only the progress of a
// run is read under runlog.mu, with locks of its own that guard nothing else.
//
// # Guarantees
//
// They are those of docs/spec.md#promises; package lifecycle proves the decisions among
// them. A panic in a request is answered as an internal error, a panic in a handler is its
// failure, and after a panic in a container's loop the container's requests are forwarded.
//
// Not promised: if a runc start hangs, Start hangs, as under the stock shim.
package shim
