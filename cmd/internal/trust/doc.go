// Package trust decides which other processes and files root's tools trust.
//
// Any user can start a process that calls itself containerd, listen on a socket, and
// have a set-user-id program inherit it. So a process is trusted only if the kernel
// reports all of the following, which only root can arrange ([Open]):
//
//   - its real, effective, saved and file system user ids are all 0, in our own user
//     namespace. A set-user-id program keeps its caller's real id;
//   - it has our own mount namespace and root directory. A container's process has
//     uid 0 as well, and its files are the container's;
//   - its executable, as /proc/PID/exe names it, can be replaced by root only
//     ([Program]), and is not set-user-id.
//
// They are checked in this order, because a container's root directory and program may be
// in a file system that never answers.
//
// The argument list and the environment are read only after that. Then both checks are
// repeated, because the process may have executed another program in between.
//
// A listening socket belongs to the process that holds it according to the kernel's table
// of sockets (sock_diag(7)). /proc/net/unix cannot be used, because a socket's name may
// contain spaces and newlines. A connection is used only if root listened ([Dial]).
//
// A program is executed only if root alone can write to every directory above it.
package trust
