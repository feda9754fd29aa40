// Package host runs a program of this container's image in the namespaces of its node, so that the program sees the node's
// files, network and sockets as if it had been started there. It needs a privileged container in the node's pid namespace.
package host
