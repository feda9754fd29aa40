// Package shim puts lifecycle handlers around containerd's own runc task
// service.
//
// What is wrapped: service embeds the runc service and overrides Create, Start,
// State, Kill, Wait and Delete, for containers whose annotations ask for handlers.
// Every other call, and every other container, goes straight through.
//
// Who owns what: each container with handlers has one goroutine (container.loop)
// that owns its lifecycle.Machine, the only place where anything is decided. All
// data crosses borders one way:
//
//	request → event    a request's goroutine asks the loop and waits for its verdict
//	effect  → call     the loop carries out effects, without waiting for any of them
//	exit    → event    the tap (internal/tap) sees TaskExit pass and posts it to the loop
//
// The calls into the runc service are made by the goroutines of the requests, so
// they block only those. A handler runs in a goroutine of its own, which ends
// soon after the loop has cancelled its context. The tap has one goroutine, which
// forwards the events of the whole pod; nothing else ever waits for containerd.
//
// An onExit begins when the process is gone: runner keeps its namespaces open from
// the creation on (hookexec.Kept), the tap holds TaskExit, Wait and Delete wait for
// the loop. What a dead shim leaves of one is removed by the delete action (manager).
//
// statusService, beside the task service, shows what the loops and the handlers
// leave for it: the machine's status after its last step, and the runs. A trial,
// which is an operator's run of a handler, is known to no machine; it ends when a
// real handler is due.
//
// What goes out beside all that waits for nobody either: a handler's lines on their
// way to the container's log (package containerlog, one goroutine for each run that has
// output Log), and the node's counters (metrics.Adder, one goroutine while there is
// something to add). The shim waits for the counters, 2 s at most, when it ends.
//
// What handlers leave in the background may write until the container exits: its output
// is read and dropped (hookexec.Background, two goroutines for each container that has
// such processes).
//
// ending decides when the shim ends: it puts containerd's Shutdown off while a Create is
// under way, or announced by the start action (service Launch). Every answer passes bound.
//
// Locks: ending.mu is held while the runc service decides whether to shut down, which
// takes that service's own lock, and nothing of this package. service.mu guards the map
// of containers, container.mu its mailbox and its
// runs, tap.mu the held events. None of them is held while another is taken or
// anything is called; only what a run shows (hookexec.Progress) is looked at under
// container.mu, with locks of its own that are held for nothing else.
//
// Guarantees are those of docs/spec.md#promises; the decisions among them are proved in package
// lifecycle. A panic in a request is answered as an internal error, one in a
// handler is its failure, and one in a container's loop makes that container pass
// everything through.
//
// Not promised: a runc start that hangs is a Start that hangs, as under the
// stock shim.
package shim
