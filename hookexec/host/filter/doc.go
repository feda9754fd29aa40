// Package filter keeps what libseccomp makes of a seccomp profile, so that it is made
// once for a container and not again for each of its handlers: for a profile like
// docker's that takes 20 to 40 ms, most of what a handler costs.
//
// libcontainer goes on loading the filter, at its place among the other steps of
// starting a process, and with its own additions. Only the one function of libseccomp
// that it takes the filter from, seccomp_export_bpf, is wrapped by the linker: Compile
// keeps what it gives, and after Use it gives that again.
package filter
