// Package installer brings the shim onto the node that it runs on, as a pod of a DaemonSet, and takes it off again.
//
// Next decides what to do, from what is known (View): it has no I/O and no clock. Installer observes, asks Next, does that
// one step, and observes again, so a step that was interrupted at any point is decided anew. What changes a node is done by
// lifecyclectl's node commands (package host runs them in the node's namespaces); how many nodes change at once is decided
// by Leases (package turn).
//
// Three promises hold in every state, and TestEveryView checks them: nothing that can harm a node is done without a turn
// and with the label on it; the label is set only after a check that came after the last change; and a failure is on the
// Node before its turn is given back, so that the next node sees it.
//
// Removal counts the installations and adds the mark; see there for why neither can miss the other.
package installer
