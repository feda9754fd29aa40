// Package host is the handler host: a small program that runs a command inside a
// container through runc's libcontainer. It is the only package that links libcontainer.
// The shim cannot link it: the shim reaps every child, so libcontainer would miss exit
// statuses, and the shim would need libcontainer's memory for the lifetime of the pod.
//
// The host works in two steps. Prepare, when the container is created, writes the state
// that libcontainer.Load reads. It is derived from the bundle's spec and the init process
// alone, so it works the same with runc and crun. Start, for each handler, starts the
// process and exits: the process becomes a child of the shim, its subreaper, which
// receives its exit status.
package host
