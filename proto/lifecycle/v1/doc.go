// Package lifecyclev1 is the published schema: the lifecycle block of a container's
// annotations, the runtime's typed options, the status service, and the events. `make
// generate` generates the .pb.go files; do not edit them. compatible.txt lists what has
// been published on the wire: lines are only ever added.
package lifecyclev1
