// Package filter stores the compiled seccomp profile of a container, so that it is
// compiled once and not for each handler. For a profile like docker's that takes 20 to
// 40 ms, which is most of the time that a handler needs.
//
// libcontainer still loads the filter, at its usual step of starting a process, with its
// own additions. The linker wraps only the libseccomp function from which libcontainer
// takes the filter, seccomp_export_bpf: Compile stores its result, and after Use it
// returns the stored result.
package filter
