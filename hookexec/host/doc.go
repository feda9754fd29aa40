// Package host is the handler host: the small program that runs a command
// inside a container through runc's libcontainer, and the only place that links
// it. The shim cannot do that itself: it reaps every child, so libcontainer
// would lose exit statuses to it, and it would carry libcontainer's memory for
// as long as the pod lives.
//
// The host works in two steps. Prepare, when the container is created, writes
// the state that libcontainer.Load reads; it is derived from the bundle's spec
// and the init process alone, so that runc and crun are one path. Start, for
// each handler, starts the process and leaves: the process becomes a child of
// the shim, its subreaper, which takes its exit status.
package host
