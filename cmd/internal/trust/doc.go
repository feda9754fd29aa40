// Package trust decides what root's tools believe of other processes and files.
//
// Any user can start a process that calls itself containerd, listen on a socket, and
// have a set-user-id program inherit it. So a process is believed only if the kernel
// says all of this about it, and others cannot arrange it ([Open]):
//
//   - its real, effective, saved and file system user ids are all 0, in our own user
//     namespace. A set-user-id program keeps its caller's real id;
//   - it has our own mount namespace and root directory. A container's process has
//     uid 0 as well, and its files are the container's;
//   - its executable, as /proc/PID/exe names it, can be replaced by root only
//     ([Program]), and is not set-user-id.
//
// These are asked in this order, because a container's root directory and program may be
// in a file system that never answers.
//
// Its argument list and environment are read only after that, and both are checked
// again afterwards, because a process may execute another program in between.
//
// A listening socket belongs to the process that holds it: the kernel's table of
// sockets says so (sock_diag(7)). /proc/net/unix does not, because a socket's name may
// hold spaces and newlines. A connection is used only if root listened ([Dial]).
//
// A program is executed only if every directory above it can be written by root alone.
package trust
