// Package stdout writes a handler's output into the stream that its container's
// stdout goes to, so that it is found in the container's log.
//
// Stream says where that is, and Open begins a handler's part of it. A Writer
// takes any bytes and writes whole lines, each with the handler's name before it
// and in one piece, so that they never mix with a line that the container writes
// in one piece. It never waits for whoever reads the stream: what cannot be
// written in time is dropped, and counted.
//
// Nothing that a container could have chosen is ever opened. A FIFO or a file is
// opened by the path that the client has given to the shim. The pipe to a logger
// (binary://) is one that the shim itself holds: the init process only tells which
// one, before it runs any code of the container's.
package stdout
