// Package archive tests the container image that `make image` writes as an OCI archive: what is in it, and that a real containerd
// runs it and installs from it. What reads the archive is for other tests too.
package archive
