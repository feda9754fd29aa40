// Package oci reads a container's bundle and says which lifecycle handlers it
// asks for, and how it is to be stopped.
//
// The source is the OCI spec's annotations (config.json of the bundle). They are
// written by whoever wrote the pod or typed the command, so they are hostile
// input: every value is bounded, decoded strictly against the schema of
// proto/lifecycle/v1 and checked before anything is done for the container. A
// value that is refused comes back as an *InvalidError, whose message names the
// annotation key, the path of the field, and what is allowed there.
package oci
