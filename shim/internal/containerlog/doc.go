// Package containerlog writes a handler's output into the stream of its container's
// stdout, so that it is in the container's log.
//
// Of finds the stream, and Stream.Open begins a handler's output in it. A Writer takes any
// bytes and writes whole lines. Each line begins with the handler's name and is written in
// one piece, so it never mixes with a line that the container writes in one piece. A Writer
// never waits for the reader of the stream: what cannot be written in time is dropped and
// counted.
//
// The container must not choose the file that is opened, even if it can change its own
// descriptors or the directory of its log. So the stream is one that the shim itself holds
// open for the container's own output: a FIFO, a file or a pipe to a logger. The shim finds
// out which one before any code of the container's runs.
package containerlog
