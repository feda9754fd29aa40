// Package node tests what an operator does: installing and upgrading the shim, the configurations in deploy/, lifecyclectl, the
// doctor, metrics and systemd.
package node
