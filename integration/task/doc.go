// Package task tests the shim through containerd's task API, as ctr uses it, under every target: start, stop, onExit, output,
// network handlers, pause, restore, restarts of the daemon.
package task
