// Package node installs lifecycle-shim on this node, and removes it again.
//
// Install works in these steps:
//
//   - gather.go reads the node's facts: the running containerds, their configuration, the
//     directories for the programs. It judges nothing and changes nothing;
//   - choose.go, layout.go and plan.go decide without any I/O which files have to be written:
//     each distribution keeps containerd's configuration in its own way (a [Layout]);
//   - apply.go writes the files. Before the first one is changed, a journal (journal.go)
//     records what was there, so that an installation that was interrupted at any moment can
//     be completed by the next Install, or taken back by Uninstall;
//   - containerd's own program reads the result (`config dump`); on any failure everything is
//     put back;
//   - restart.go restarts containerd if it has not loaded the handler yet, and puts the files
//     back if it does not return.
//
// Uninstall (undo.go) leaves the node byte for byte as it was before the first Install, with
// modes and owners.
package node
