// Package oci reads a container's bundle: which lifecycle handlers the container has, and
// how it is to be stopped.
//
// The source is the annotations of the OCI spec (config.json of the bundle). The author of
// the pod or of the command wrote them, so they are hostile input. Each value is limited
// in size, decoded strictly against the schema of proto/lifecycle/v1, and checked before
// anything is done for the container. If a value is refused, the error is an
// *InvalidError, whose message names the annotation key and the field, and says what is
// allowed there.
package oci
