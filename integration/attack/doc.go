// Package attack tests what a hostile or broken container, handler, runtime or neighbour can do to the shim, to other
// containers and to the machine.
package attack
