// Package containerlog writes a handler's output into the stream that its container's
// stdout goes to, so that it is found in the container's log.
//
// Stream says which one that is, and Open begins a handler's part of it. A Writer
// takes any bytes and writes whole lines, each with the handler's name before it
// and in one piece, so that they never mix with a line that the container writes
// in one piece. It never waits for whoever reads the stream: what cannot be
// written in time is dropped, and counted.
//
// Nothing that a container could have chosen is ever opened, also where it can
// change its own descriptors, or the directory of its log: a stream is a FIFO, a
// file or a pipe to a logger that the shim holds open itself, for the container's
// own output. Which one is found out before any code of the container's runs.
package containerlog
